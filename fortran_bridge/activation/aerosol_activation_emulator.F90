!> Aerosol activation by an emulator in the place of E3SM's `activate_modal`: per point under the original's arguments, or
!! for many points at once.
!!
!!     use aerosol_activation_emulator, only: activation_emulator, activate_modal_emulator, use_activation_emulator
!!     type(activation_emulator) :: emulator
!!     call emulator%connect(bytes, stat, errmsg)      ! bytes of the model file: one rank reads and broadcasts them; or a path
!!     call use_activation_emulator(emulator)          ! what activate_modal_emulator evaluates from now on
!!
!! Off by default, inert when off. An emulator that was not connected, or with scheme = 'arg', is ARG, and reads nothing.
!!
!! What is kept of the original. All outputs are 0 without aerosol (`na(1) < 1e-20 m-3`; the current form of the routine
!! asks that of hosts with one mode only), without updraft (w <= 0), and where a supersaturation of 0 or less is
!! prescribed. A prescribed supersaturation above 0 means ARG's closed form. fn and fm of a mode with hygro <= 1e-10
!! are 0, as those of a mode without number or volume (1e-39). fluxn = fn w, fluxm = fm w, flux_fullact = w.
!!
!! fn and fm. Of a network that gives ln S_max (exported --without-head), both by aerosol_activation_head, with
!! the constants in the model file. Of a network that gives fn, cut to 0..1, with fm from fn by aerosol_activation_mass;
!! so too where the file holds a head within its graph, of which a host only sees fn.
!!
!! Outside of the training range. An input that is beyond its range by more than `margin` (relative, 0.01: hosts hold radii
!! at the very ends) makes the point outside, and ARG takes it (`fallback`); within the margin it counts as at the end.
!! Moved to the end of its range without falling back, as nothing is lost by it:
!! - rh: cut to the range. Without rh the air is taken as saturated, the upper end, or as `rh_if_absent` of connect says.
!! - kappa below the range, if that begins at 1e-6 or less: the mode takes up no water in either case.
!! - number below the range, as long as what is added to the modes is at most a tenth of all particles. A mode that is
!!   absent, or beyond nmode, is one of the least number, radius and kappa. Measured with the parcel model (6,000 states
!!   with mode 1 or mode 2 too scarce): MSE 7e-5 to 8e-4, ARG's 1e-3 to 9e-3; with modes 1 and 2 both too scarce, which
!!   only states of primary carbon are within the tenth, 7e-3 to 4e-2 and ARG's 1e-2 to 2e-2. With more added: both wrong.
!!
!! Without rh (1,500 states of the sampler, rh 0.70 to 0.999, MSE of fn): 1.3e-5 instead of 1.5e-6 for the best network
!! of the demo, 2.4e-5 instead of 1.1e-5 for the lightest; ARG 4.3e-3. Where rh is above 0.97, as in cloud: no difference.
!!
!! Schemes. 'emulator'; 'arg'; 'both', in which the host gets the numbers of `result_of`, and fn_difference and
!! fm_difference, the caller's fields, emulator minus ARG (0 where either did not run).
!!
!! Failures never stop: outputs are NaN, stat is not 0, errmsg says why. There are four: nmode, ncol of the batched
!! form, a spectrum of updrafts (sigw > 1e-5, which E3SM's physics never asks for), and an engine that ran out of memory.
!!
!! Threads share a connected emulator. The only module variable is what `use_activation_emulator` sets, before
!! threads start. No saved locals, no I/O, no allocation in a call after a thread's first. A point's bits do not depend on
!! its neighbours', nor on which of the routines was called, but for `needs_first_mode`. Nothing raises an exception that hosts trap (invalid, division by
!! zero, overflow) for what an atmosphere may hold (60 to 1500 K, air of some density), however far outside of the range.
module aerosol_activation_emulator
  use aerosol_activation_arg, only: activate_modal_arg, default_max_updraft
  use aerosol_activation_batch, only: activation_emulator, negligible_number, err_argument, no_such_modes
  use aerosol_activation_connection, only: max_outputs
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_counters, only: activation_counters
  use aerosol_activation_evaluation, only: evaluate, num_state, num_results, num_work, w_at => w, tair_at => tair, &
    rhoair_at => rhoair, rh_in => rh, na_at => na, volume_at => volume, hygro_at => hygro, fn_at => fn, fm_at => fm, &
    fn_difference_at => fn_difference, fm_difference_at => fm_difference
  use aerosol_activation_nan, only: is_nan, quiet_nan
  use aerosol_activation_saturation, only: relative_humidity
  implicit none
  private
  public :: activation_emulator, activation_counters
  public :: activate_modal_emulator, use_activation_emulator, relative_humidity, default_max_updraft

  real(r8), parameter :: spectrum = 1.e-5_r8  !! m s-1: E3SM integrates over updrafts where sigw is above

  !> E3SM's current arguments, and those of the refactored routine.
  interface activate_modal_emulator
    module procedure activate_modal_current, activate_modal_refactored
  end interface activate_modal_emulator

  type(activation_emulator), save, target :: chosen

contains

  !> What `activate_modal_emulator` evaluates from now on, unless it is given an emulator. Before threads start.
  subroutine use_activation_emulator(emulator)
    type(activation_emulator), intent(in) :: emulator

    chosen = emulator
  end subroutine use_activation_emulator

  !> The arguments of E3SM's `activate_modal`, and after them, all optional, our own.
  recursive subroutine activate_modal_current(wbar, sigw, wdiab, wminf, wmaxf, tair, rhoair, na, nmode, volume, hygro, &
      fn, fm, fluxn, fluxm, flux_fullact, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference, stat, &
      errmsg)
    real(r8), intent(in) :: wbar          !! updraft speed, m s-1
    real(r8), intent(in) :: sigw          !! standard deviation of a spectrum of updrafts, m s-1; above 1e-5: failure
    real(r8), intent(in) :: wdiab         !! diabatic updraft, m s-1: activates with wbar, carries no flux
    real(r8), intent(in) :: wminf         !! least updraft of a spectrum, m s-1
    real(r8), intent(in) :: wmaxf         !! largest updraft, m s-1
    real(r8), intent(in) :: tair          !! air temperature, K
    real(r8), intent(in) :: rhoair        !! air density, kg m-3
    real(r8), intent(in), contiguous :: na(:)      !! number concentration, m-3 (nmode or more)
    integer, intent(in) :: nmode          !! modes, the first of MAM4's four
    real(r8), intent(in), contiguous :: volume(:)  !! volume concentration, m3 m-3
    real(r8), intent(in), contiguous :: hygro(:)   !! volume-mean hygroscopicity, 1
    real(r8), intent(out), contiguous :: fn(:)    !! activated fraction of number, 1; what is beyond nmode is 0, here and below
    real(r8), intent(out), contiguous :: fm(:)    !! activated fraction of mass, 1
    real(r8), intent(out), contiguous :: fluxn(:) !! flux of fn into cloud, m s-1
    real(r8), intent(out), contiguous :: fluxm(:) !! flux of fm into cloud, m s-1
    real(r8), intent(out) :: flux_fullact !! flux if everything activated, m s-1
    real(r8), intent(in), optional :: smax_prescribed  !! supersaturation in the place of the scheme's own, 1
    real(r8), intent(in), optional :: rh               !! relative humidity over liquid, 1
    type(activation_emulator), intent(in), optional, target :: emulator  !! default: that of use_activation_emulator
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)  !! emulator minus ARG
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    type(activation_emulator), pointer :: by
    character(len=:), allocatable :: message
    character(len=40) :: found
    real(r8) :: w
    integer :: code

    call look_at_modes(nmode, fn, fm, fluxn, fluxm, code, message)
    if (sigw > spectrum) then
      write(found, '(a, es10.2, a, es10.2)') 'sigw =', sigw, ', wminf =', wminf
      message = 'activate_modal_emulator takes one updraft, not a spectrum ('//trim(found)//'); pass sigw = 0'
      code = err_argument
    else if (code == 0) then
      w = wbar
      if (wbar > 0._r8) w = wbar + wdiab
      by => chosen
      if (present(emulator)) by => emulator
      call activate_point(by, w, wbar, nmode == 1, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, fluxm, &
        flux_fullact, code, message, smax_prescribed, rh, counters, fn_difference, fm_difference)
    end if
    if (code /= 0) call fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    if (present(stat)) stat = code
    if (code /= 0 .and. present(errmsg)) errmsg = message
  end subroutine activate_modal_current

  !> The arguments of the refactored routine, and ours as above.
  recursive subroutine activate_modal_refactored(w_in, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, &
      fluxm, flux_fullact, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference, stat, errmsg)
    real(r8), intent(in) :: w_in, wmaxf, tair, rhoair
    real(r8), intent(in), contiguous :: na(:)
    integer, intent(in) :: nmode
    real(r8), intent(in), contiguous :: volume(:), hygro(:)
    real(r8), intent(out), contiguous :: fn(:), fm(:), fluxn(:), fluxm(:)
    real(r8), intent(out) :: flux_fullact
    real(r8), intent(in), optional :: smax_prescribed, rh
    type(activation_emulator), intent(in), optional, target :: emulator
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    type(activation_emulator), pointer :: by
    character(len=:), allocatable :: message
    integer :: code

    call look_at_modes(nmode, fn, fm, fluxn, fluxm, code, message)
    if (code == 0) then
      by => chosen
      if (present(emulator)) by => emulator
      call activate_point(by, w_in, w_in, .true., wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, fluxm, &
        flux_fullact, code, message, smax_prescribed, rh, counters, fn_difference, fm_difference)
    end if
    if (code /= 0) call fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    if (present(stat)) stat = code
    if (code /= 0 .and. present(errmsg)) errmsg = message
  end subroutine activate_modal_refactored

  !> Is nmode one of ours? What lies beyond is 0.
  subroutine look_at_modes(nmode, fn, fm, fluxn, fluxm, code, message)
    integer, intent(in) :: nmode
    real(r8), dimension(:), contiguous, intent(inout) :: fn, fm, fluxn, fluxm
    integer, intent(out) :: code
    character(len=:), allocatable, intent(inout) :: message

    code = err_argument
    if (nmode < 1 .or. nmode > num_modes) then
      message = no_such_modes(nmode)
      return
    end if
    code = 0
    if (max(size(fn), size(fm), size(fluxn), size(fluxm)) == nmode) return
    fn(nmode + 1:) = 0._r8
    fm(nmode + 1:) = 0._r8
    fluxn(nmode + 1:) = 0._r8
    fluxm(nmode + 1:) = 0._r8
  end subroutine look_at_modes

  recursive subroutine activate_point(by, w, w_flux, needs_first_mode, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, &
      fm, fluxn, fluxm, flux_fullact, code, message, smax_prescribed, rh, counters, fn_difference, fm_difference)
    type(activation_emulator), intent(in) :: by
    real(r8), intent(in) :: w, w_flux  !! what activates, and what carries; m s-1
    logical, intent(in) :: needs_first_mode
    real(r8), intent(in) :: wmaxf, tair, rhoair
    integer, intent(in) :: nmode
    real(r8), dimension(nmode), intent(in) :: na, volume, hygro
    real(r8), dimension(nmode), intent(inout) :: fn, fm, fluxn, fluxm
    real(r8), intent(inout) :: flux_fullact
    integer, intent(out) :: code
    character(len=:), allocatable, intent(inout) :: message
    real(r8), intent(in), optional :: smax_prescribed, rh
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)
    real(r8) :: state(num_state), results(num_results), work(num_work), y(max_outputs)
    logical :: is_outside(1)
    integer :: m

    code = 0
    if (present(fn_difference)) fn_difference = 0._r8
    if (present(fm_difference)) fm_difference = 0._r8
    if (returns_early(w, na(1), needs_first_mode, smax_prescribed)) then
      if (present(counters)) then
        counters%points = counters%points + 1
        counters%early_returns = counters%early_returns + 1
      end if
      fn = 0._r8
      fm = 0._r8
      fluxn = 0._r8
      fluxm = 0._r8
      flux_fullact = 0._r8
      return
    end if
    if (present(counters)) counters%points = counters%points + 1
    if (.not. by%settings%runs_emulator .or. present(smax_prescribed)) then  ! nothing but ARG: no detour
      call activate_modal_arg(w, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, fluxm, flux_fullact, &
        smax_prescribed, needs_first_mode=needs_first_mode)
      if (present(counters)) then
        counters%prescribed = counters%prescribed + merge(1, 0, present(smax_prescribed))
        counters%arg = counters%arg + merge(0, 1, present(smax_prescribed))
      end if
      if (abs(w_flux - w) > 0._r8) then
        fluxn = fn*w_flux
        fluxm = fm*w_flux
        flux_fullact = w_flux
      end if
      return
    end if
    state(w_at) = w
    state(tair_at) = tair
    state(rhoair_at) = rhoair
    state(rh_in) = by%settings%rh_if_absent
    if (present(rh)) state(rh_in) = rh
    state(na_at + 1:) = 0._r8
    do m = 1, nmode
      state(na_at + m) = na(m)
      state(volume_at + m) = volume(m)
      state(hygro_at + m) = hygro(m)
    end do
    call evaluate(by%model, by%connection, by%settings, 1, nmode, needs_first_mode, &
      present(fn_difference) .or. present(fm_difference), wmaxf, state, results, work, y, is_outside, code, message, &
      smax_prescribed, counters)
    if (code /= 0) then
      if (present(counters)) counters%points = counters%points - 1  ! fail_point counts it
      return
    end if
    do m = 1, nmode
      fn(m) = results(fn_at + m)
      fm(m) = results(fm_at + m)
      fluxn(m) = fn(m)*w_flux
      fluxm(m) = fm(m)*w_flux
      if (present(fn_difference)) fn_difference(m) = results(fn_difference_at + m)
      if (present(fm_difference)) fm_difference(m) = results(fm_difference_at + m)
    end do
    flux_fullact = w_flux
  end subroutine activate_point

  pure logical function returns_early(w, first_number, needs_first_mode, smax_prescribed)
    real(r8), intent(in) :: w, first_number
    logical, intent(in) :: needs_first_mode
    real(r8), intent(in), optional :: smax_prescribed

    returns_early = w <= 0._r8 .and. .not. is_nan(w)
    if (needs_first_mode) &
      returns_early = returns_early .or. (first_number < negligible_number .and. .not. is_nan(first_number))
    if (present(smax_prescribed)) returns_early = returns_early .or. smax_prescribed <= 0._r8
  end function returns_early

  subroutine fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    real(r8), intent(out), contiguous :: fn(:), fm(:), fluxn(:), fluxm(:)
    real(r8), intent(out) :: flux_fullact
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)

    flux_fullact = quiet_nan()
    fn = flux_fullact
    fm = flux_fullact
    fluxn = flux_fullact
    fluxm = flux_fullact
    if (present(fn_difference)) fn_difference = flux_fullact
    if (present(fm_difference)) fm_difference = flux_fullact
    if (present(counters)) then
      counters%points = counters%points + 1
      counters%failures = counters%failures + 1
    end if
  end subroutine fail_point
end module aerosol_activation_emulator
