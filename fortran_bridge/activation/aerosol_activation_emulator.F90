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
!!   absent, or beyond nmode, is one of the least number, radius and kappa. Measured with the parcel model (6,000
!!   states with one mode too scarce): MSE 1e-4 to 8e-4, ARG's 1e-3 to 2e-2; with more added, both are wrong.
!!
!! Without rh (1,500 states of the sampler, rh 0.70 to 0.999, MSE of fn): 1.3e-5 instead of 1.5e-6 for the best network
!! of the demo, 2.4e-5 instead of 1.1e-5 for the lightest; ARG 4.3e-3. Where rh is above 0.97, as in cloud: no difference.
!!
!! Schemes. 'emulator'; 'arg'; 'both', in which the host gets the numbers of `result_of`, and fn_difference and
!! fm_difference, the caller's fields, emulator minus ARG (0 where either did not run).
!!
!! Failures never stop: outputs are NaN, stat is not 0, errmsg says why. There are three: nmode, a spectrum of updrafts
!! (sigw > 1e-5, which E3SM's physics never asks for), and a library that ran out of memory.
!!
!! Threads share a connected emulator. The only module variable is what `use_activation_emulator` sets, before
!! threads start. No saved locals, no I/O, no allocation but automatic arrays. A point's bits do not depend on its
!! neighbours', nor on which of the routines was called. Nothing raises an exception that hosts trap (invalid, division by
!! zero, overflow), given numbers that are none themselves.
module aerosol_activation_emulator
  use, intrinsic :: ieee_arithmetic, only: ieee_value, ieee_quiet_nan, ieee_is_nan
  use, intrinsic :: iso_fortran_env, only: int8
  use aerosol_activation_arg, only: activate_modal_arg, default_max_updraft
  use aerosol_activation_connection, only: connection_t, connect_model, tair_at => tair, rh_at => rh, number_at => number, &
    radius_at => radius, kappa_at => kappa
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_counters, only: activation_counters
  use aerosol_activation_head, only: activated_fractions
  use aerosol_activation_mapping, only: emulator_inputs, num_known_inputs
  use aerosol_activation_mass, only: mass_from_number
  use aerosol_activation_saturation, only: relative_humidity
  use libemulator, only: emulator_model
  implicit none
  private
  public :: activation_emulator, activation_counters
  public :: activate_modal_emulator, use_activation_emulator, relative_humidity, default_max_updraft

  real(r8), parameter :: negligible_number = 1.e-20_r8  !! m-3, in mode 1: no activation at all
  real(r8), parameter :: absent_mode = 1.e-39_r8        !! m-3 and m3 m-3
  real(r8), parameter :: inert_kappa = 1.e-10_r8
  real(r8), parameter :: spectrum = 1.e-5_r8            !! m s-1: E3SM integrates over updrafts where sigw is above
  real(r8), parameter :: most_added = 0.1_r8            !! of all particles, where modes are scarcer than in training
  integer, parameter :: block = 64                      !! points at a time: their work space fits into the first cache
  integer, parameter :: err_argument = 1, err_mismatch = 7  ! of libemulator.h
  integer, parameter :: every_input(num_known_inputs) = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]

  type :: settings_t
    logical :: runs_emulator = .false., runs_arg = .true.
    logical :: gives_emulator = .false.       !! whose numbers the host gets
    logical :: bounds_added = .true.          !! false without fallback
    real(r8) :: rh_if_absent = 1._r8
  end type settings_t

  type :: activation_emulator
    private
    type(emulator_model) :: model
    type(connection_t) :: connection
    type(settings_t) :: settings
  contains
    generic :: connect => connect_path, connect_bytes
    procedure :: free, is_connected, scheme, describe
    procedure :: activate
    generic :: assignment(=) => assign_emulator
    procedure, private :: connect_path, connect_bytes, assign_emulator
  end type activation_emulator

  !> E3SM's current arguments, and those of the refactored routine.
  interface activate_modal_emulator
    module procedure activate_modal_current, activate_modal_refactored
  end interface activate_modal_emulator

  type(activation_emulator), save :: chosen

contains

  ! ---- at start ----

  !> Read and check a model file. stat is 0, or a status of libemulator.h with errmsg allocated and the emulator as fresh.
  subroutine connect_path(self, path, stat, errmsg, scheme, result_of, fallback, margin, rh_if_absent, backend, isa, &
      precision)
    class(activation_emulator), intent(inout) :: self
    character(len=*), intent(in) :: path
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=*), intent(in), optional :: scheme     !! 'emulator' (default), 'arg' (nothing is read) or 'both'
    character(len=*), intent(in), optional :: result_of  !! of 'both': 'emulator' (default) or 'arg'
    logical, intent(in), optional :: fallback            !! ARG outside of the training range; default: yes
    real(r8), intent(in), optional :: margin             !! relative, default 0.01
    real(r8), intent(in), optional :: rh_if_absent       !! 1; default: the upper end of the training range
    character(len=*), intent(in), optional :: backend, isa
    integer, intent(in), optional :: precision           !! as `load` of libemulator has them
    character(len=:), allocatable :: message

    call self%free()
    call read_scheme(scheme, result_of, self%settings, message)
    stat = merge(err_argument, 0, allocated(message))
    if (stat == 0 .and. self%settings%runs_emulator) then
      call self%model%load(path, stat=stat, errmsg=message, backend=backend, isa=isa, precision=precision)
      if (stat == 0) call check(self, fallback, margin, rh_if_absent, stat, message)
    end if
    if (stat /= 0) then
      errmsg = message
      call self%free()
    end if
  end subroutine connect_path

  !> The same from the bytes of a model file.
  subroutine connect_bytes(self, bytes, stat, errmsg, scheme, result_of, fallback, margin, rh_if_absent, backend, isa, &
      precision)
    class(activation_emulator), intent(inout) :: self
    integer(int8), intent(in), contiguous, target :: bytes(:)
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=*), intent(in), optional :: scheme, result_of, backend, isa
    logical, intent(in), optional :: fallback
    real(r8), intent(in), optional :: margin, rh_if_absent
    integer, intent(in), optional :: precision
    character(len=:), allocatable :: message

    call self%free()
    call read_scheme(scheme, result_of, self%settings, message)
    stat = merge(err_argument, 0, allocated(message))
    if (stat == 0 .and. self%settings%runs_emulator) then
      call self%model%load_bytes(bytes, stat=stat, errmsg=message, backend=backend, isa=isa, precision=precision)
      if (stat == 0) call check(self, fallback, margin, rh_if_absent, stat, message)
    end if
    if (stat /= 0) then
      errmsg = message
      call self%free()
    end if
  end subroutine connect_bytes

  subroutine read_scheme(scheme, result_of, settings, errmsg)
    character(len=*), intent(in), optional :: scheme, result_of
    type(settings_t), intent(inout) :: settings
    character(len=:), allocatable, intent(out) :: errmsg

    settings%runs_emulator = .true.
    settings%runs_arg = .false.
    settings%gives_emulator = .true.
    if (present(scheme)) then
      select case (scheme)
      case ('emulator')
      case ('arg', 'both')
        settings%runs_emulator = scheme == 'both'
        settings%runs_arg = .true.
        settings%gives_emulator = scheme == 'both'
      case default
        errmsg = "scheme = '"//trim(scheme)//"', expected 'arg', 'emulator' or 'both'"
        return
      end select
    end if
    if (.not. present(result_of)) return
    select case (result_of)
    case ('emulator')
    case ('arg')
      if (settings%runs_arg) then
        settings%gives_emulator = .false.
      else
        errmsg = "result_of = 'arg' needs scheme = 'both' (or 'arg')"
      end if
    case default
      errmsg = "result_of = '"//trim(result_of)//"', expected 'emulator' or 'arg'"
    end select
  end subroutine read_scheme

  !> Names, units, ranges, and the check samples that the file brings along.
  subroutine check(self, fallback, margin, rh_if_absent, stat, errmsg)
    class(activation_emulator), intent(inout) :: self
    logical, intent(in), optional :: fallback
    real(r8), intent(in), optional :: margin, rh_if_absent
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: used_margin

    used_margin = 0.01_r8
    if (present(margin)) used_margin = margin
    if (present(fallback)) self%settings%bounds_added = fallback
    stat = err_argument
    if (.not. (used_margin >= 0._r8 .and. used_margin < 1._r8)) then
      errmsg = 'margin is to be at least 0 and below 1'
      return
    end if
    if (present(rh_if_absent)) then
      if (.not. (rh_if_absent >= 0._r8 .and. rh_if_absent <= 1._r8)) then
        errmsg = 'rh_if_absent is to be a relative humidity, 0 to 1'
        return
      end if
    end if
    stat = err_mismatch
    call connect_model(self%model, used_margin, self%settings%bounds_added, self%connection, errmsg)
    if (allocated(errmsg)) return
    stat = 0
    if (self%model%metadata('libemulator.check_inputs') /= '') call self%model%self_check(stat=stat, errmsg=errmsg)
    self%settings%rh_if_absent = min(1._r8, self%connection%highest(rh_at))
    if (present(rh_if_absent)) self%settings%rh_if_absent = rh_if_absent
  end subroutine check

  !> Give the model back; what remains is ARG.
  subroutine free(self)
    class(activation_emulator), intent(inout) :: self
    type(connection_t) :: no_connection
    type(settings_t) :: default_settings

    call self%model%free()
    self%connection = no_connection
    self%settings = default_settings
  end subroutine free

  !> Both share the loaded model.
  subroutine assign_emulator(left, right)
    class(activation_emulator), intent(inout) :: left
    class(activation_emulator), intent(in) :: right

    left%model = right%model
    left%connection = right%connection
    left%settings = right%settings
  end subroutine assign_emulator

  !> Is there a model?
  pure logical function is_connected(self)
    class(activation_emulator), intent(in) :: self

    is_connected = self%model%is_loaded()
  end function is_connected

  !> 'arg', 'emulator' or 'both'
  function scheme(self) result(name)
    class(activation_emulator), intent(in) :: self
    character(len=:), allocatable :: name

    if (.not. self%settings%runs_emulator) then
      name = 'arg'
    else if (self%settings%runs_arg) then
      name = 'both'
    else
      name = 'emulator'
    end if
  end function scheme

  !> One line for a host's log.
  function describe(self) result(line)
    class(activation_emulator), intent(in) :: self
    character(len=:), allocatable :: line
    character(len=20) :: parameters

    line = 'aerosol activation: scheme '//self%scheme()
    if (.not. self%settings%runs_emulator) return
    write(parameters, '(i0)') self%model%num_parameters()
    line = line//', network of '//trim(parameters)//' parameters that gives '// &
      trim(merge('fn     ', 'ln_smax', self%connection%ln_smax == 0))//', '//self%model%isa()
    if (self%settings%bounds_added) then
      line = line//', ARG outside of the training range'
    else
      line = line//', held at the ends of the training range'
    end if
  end function describe

  !> What `activate_modal_emulator` evaluates from now on, unless it is given an emulator. Before threads start.
  subroutine use_activation_emulator(emulator)
    type(activation_emulator), intent(in) :: emulator

    chosen = emulator
  end subroutine use_activation_emulator

  ! ---- many points ----

  !> Activation of the first `ncol` points; what lies beyond is neither read nor written.
  recursive subroutine activate(self, ld, ncol, nmode, w, wmaxf, tair, rhoair, na, volume, hygro, fn, fm, stat, rh, &
      fluxn, fluxm, flux_fullact, smax_prescribed, counters, fn_difference, fm_difference, errmsg, needs_first_mode)
    class(activation_emulator), intent(in) :: self
    integer, intent(in) :: ld                          !! first extent of the arrays
    integer, intent(in) :: ncol                        !! points, at most ld
    integer, intent(in) :: nmode                       !! modes, the first of MAM4's four
    real(r8), intent(in) :: w(ld)                      !! updraft speed, m s-1
    real(r8), intent(in) :: wmaxf                      !! largest updraft of the host, m s-1; ARG's, for absent modes only
    real(r8), intent(in) :: tair(ld)                   !! air temperature, K
    real(r8), intent(in) :: rhoair(ld)                 !! air density, kg m-3
    real(r8), intent(in) :: na(ld, nmode)              !! number concentration, m-3
    real(r8), intent(in) :: volume(ld, nmode)          !! volume concentration, m3 m-3
    real(r8), intent(in) :: hygro(ld, nmode)           !! volume-mean hygroscopicity, 1
    real(r8), intent(inout) :: fn(ld, nmode)           !! activated fraction of number, 1
    real(r8), intent(inout) :: fm(ld, nmode)           !! activated fraction of mass, 1
    integer, intent(out) :: stat                       !! 0, or a status of libemulator.h: then all of 1:ncol is NaN
    real(r8), intent(in), optional :: rh(ld)           !! relative humidity over liquid, 1
    real(r8), intent(inout), optional :: fluxn(ld, nmode)       !! flux of fn into cloud, m s-1
    real(r8), intent(inout), optional :: fluxm(ld, nmode)       !! flux of fm into cloud, m s-1
    real(r8), intent(inout), optional :: flux_fullact(ld)       !! flux if everything activated, m s-1
    real(r8), intent(in), optional :: smax_prescribed           !! supersaturation of every point, 1
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(inout), optional :: fn_difference(ld, nmode), fm_difference(ld, nmode)  !! emulator minus ARG
    character(len=:), allocatable, intent(inout), optional :: errmsg
    logical, intent(in), optional :: needs_first_mode  !! nothing activates where mode 1 is empty; default: yes
    character(len=:), allocatable :: message
    integer :: points(block), first, last, num_points, i, m
    logical :: is_active, asks_first_mode

    stat = err_argument
    if (present(counters)) counters%points = counters%points + max(ncol, 0)
    if (nmode < 1 .or. nmode > num_modes) then
      message = no_such_modes(nmode)
      call fail(1)
      return
    else if (ncol < 0 .or. ncol > ld) then
      message = 'activate: ncol is to be at least 0 and at most ld'
      call fail(1)
      return
    end if
    stat = 0
    asks_first_mode = .true.
    if (present(needs_first_mode)) asks_first_mode = needs_first_mode .or. nmode == 1
    is_active = .true.
    if (present(smax_prescribed)) is_active = smax_prescribed > 0._r8
    do first = 1, ncol, block
      last = min(first + block - 1, ncol)
      num_points = 0
      do i = first, last
        if (.not. is_active .or. w(i) <= 0._r8) cycle
        if (asks_first_mode .and. na(i, 1) < negligible_number) cycle
        num_points = num_points + 1
        points(num_points) = i
      end do
      if (num_points < last - first + 1) call zero(first, last)
      if (num_points > 0) call gathered(num_points)
      if (stat /= 0) then
        call fail(first)
        return
      end if
      if (present(counters)) counters%early_returns = counters%early_returns + (last - first + 1 - num_points)
    end do
    do m = 1, nmode
      if (present(fluxn)) fluxn(:ncol, m) = fn(:ncol, m)*max(w(:ncol), 0._r8)
      if (present(fluxm)) fluxm(:ncol, m) = fm(:ncol, m)*max(w(:ncol), 0._r8)
    end do

  contains

    subroutine zero(from, to)
      integer, intent(in) :: from, to

      fn(from:to, :) = 0._r8
      fm(from:to, :) = 0._r8
      if (present(flux_fullact)) flux_fullact(from:to) = 0._r8
      if (present(fn_difference)) fn_difference(from:to, :) = 0._r8
      if (present(fm_difference)) fm_difference(from:to, :) = 0._r8
    end subroutine zero

    !> The points of the block at which something activates, side by side; and back.
    subroutine gathered(n)
      integer, intent(in) :: n
      real(r8), dimension(n) :: w_n, tair_n, rhoair_n, rh_n
      real(r8), dimension(n, num_modes) :: na_n, volume_n, hygro_n, fn_n, fm_n, fn_difference_n, fm_difference_n
      integer :: j, k

      rh_n = self%settings%rh_if_absent
      do j = 1, n
        w_n(j) = w(points(j))
        tair_n(j) = tair(points(j))
        rhoair_n(j) = rhoair(points(j))
        if (present(rh)) rh_n(j) = rh(points(j))
      end do
      na_n(:, nmode + 1:) = 0._r8
      volume_n(:, nmode + 1:) = 0._r8
      hygro_n(:, nmode + 1:) = 0._r8
      do k = 1, nmode
        do j = 1, n
          na_n(j, k) = na(points(j), k)
          volume_n(j, k) = volume(points(j), k)
          hygro_n(j, k) = hygro(points(j), k)
        end do
      end do
      call fractions(self, n, nmode, asks_first_mode, w_n, wmaxf, tair_n, rhoair_n, rh_n, na_n, volume_n, hygro_n, &
        fn_n, fm_n, fn_difference_n, fm_difference_n, stat, message, smax_prescribed, counters)
      if (stat /= 0) return
      do k = 1, nmode
        do j = 1, n
          fn(points(j), k) = fn_n(j, k)
          fm(points(j), k) = fm_n(j, k)
          if (present(fn_difference)) fn_difference(points(j), k) = fn_difference_n(j, k)
          if (present(fm_difference)) fm_difference(points(j), k) = fm_difference_n(j, k)
        end do
      end do
      if (present(flux_fullact)) then
        do j = 1, n
          flux_fullact(points(j)) = w_n(j)
        end do
      end if
    end subroutine gathered

    subroutine fail(from)
      integer, intent(in) :: from
      real(r8) :: nan
      integer :: to

      nan = ieee_value(nan, ieee_quiet_nan)
      to = min(ncol, ld)
      fn(from:to, :) = nan
      fm(from:to, :) = nan
      if (present(fluxn)) fluxn(:to, :) = nan
      if (present(fluxm)) fluxm(:to, :) = nan
      if (present(flux_fullact)) flux_fullact(from:to) = nan
      if (present(fn_difference)) fn_difference(from:to, :) = nan
      if (present(fm_difference)) fm_difference(from:to, :) = nan
      if (present(counters)) counters%failures = counters%failures + max(ncol - from + 1, 0)
      if (present(errmsg)) errmsg = message
    end subroutine fail
  end subroutine activate

  ! ---- one point ----

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
    real(r8), intent(in) :: na(:)         !! number concentration, m-3 (nmode or more)
    integer, intent(in) :: nmode          !! modes, the first of MAM4's four
    real(r8), intent(in) :: volume(:)     !! volume concentration, m3 m-3
    real(r8), intent(in) :: hygro(:)      !! volume-mean hygroscopicity, 1
    real(r8), intent(out) :: fn(:)        !! activated fraction of number, 1; what is beyond nmode is 0, here and below
    real(r8), intent(out) :: fm(:)        !! activated fraction of mass, 1
    real(r8), intent(out) :: fluxn(:)     !! flux of fn into cloud, m s-1
    real(r8), intent(out) :: fluxm(:)     !! flux of fm into cloud, m s-1
    real(r8), intent(out) :: flux_fullact !! flux if everything activated, m s-1
    real(r8), intent(in), optional :: smax_prescribed  !! supersaturation in the place of the scheme's own, 1
    real(r8), intent(in), optional :: rh               !! relative humidity over liquid, 1
    type(activation_emulator), intent(in), optional :: emulator  !! default: that of use_activation_emulator
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)  !! emulator minus ARG
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(len=:), allocatable :: message
    character(len=40) :: found
    real(r8) :: w
    integer :: code

    if (sigw > spectrum) then
      write(found, '(a, es10.2, a, es10.2)') 'sigw =', sigw, ', wminf =', wminf
      message = 'activate_modal_emulator takes one updraft, not a spectrum ('//trim(found)//'); pass sigw = 0'
      code = err_argument
    else
      w = wbar
      if (wbar > 0._r8) w = wbar + wdiab
      call activate_point(w, wbar, nmode == 1, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, fluxm, &
        flux_fullact, code, message, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference)
    end if
    if (code /= 0) call fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    if (present(stat)) stat = code
    if (code /= 0 .and. present(errmsg)) errmsg = message
  end subroutine activate_modal_current

  !> The arguments of the refactored routine, and ours as above.
  recursive subroutine activate_modal_refactored(w_in, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, &
      fluxm, flux_fullact, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference, stat, errmsg)
    real(r8), intent(in) :: w_in, wmaxf, tair, rhoair
    real(r8), intent(in) :: na(:)
    integer, intent(in) :: nmode
    real(r8), intent(in) :: volume(:), hygro(:)
    real(r8), intent(out) :: fn(:), fm(:), fluxn(:), fluxm(:), flux_fullact
    real(r8), intent(in), optional :: smax_prescribed, rh
    type(activation_emulator), intent(in), optional :: emulator
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(len=:), allocatable :: message
    integer :: code

    call activate_point(w_in, w_in, .true., wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, fluxn, fluxm, &
      flux_fullact, code, message, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference)
    if (code /= 0) call fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    if (present(stat)) stat = code
    if (code /= 0 .and. present(errmsg)) errmsg = message
  end subroutine activate_modal_refactored

  recursive subroutine activate_point(w, w_flux, needs_first_mode, wmaxf, tair, rhoair, na, nmode, volume, hygro, fn, fm, &
      fluxn, fluxm, flux_fullact, code, message, smax_prescribed, rh, emulator, counters, fn_difference, fm_difference)
    real(r8), intent(in) :: w, w_flux  !! what activates, and what carries; m s-1
    logical, intent(in) :: needs_first_mode
    real(r8), intent(in) :: wmaxf, tair, rhoair, na(:)
    integer, intent(in) :: nmode
    real(r8), intent(in) :: volume(:), hygro(:)
    real(r8), intent(out) :: fn(:), fm(:), fluxn(:), fluxm(:), flux_fullact
    integer, intent(out) :: code
    character(len=:), allocatable, intent(out) :: message
    real(r8), intent(in), optional :: smax_prescribed, rh
    type(activation_emulator), intent(in), optional :: emulator
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)

    if (present(emulator)) then
      call evaluate(emulator)
    else
      call evaluate(chosen)
    end if

  contains

    subroutine evaluate(by)
      type(activation_emulator), intent(in) :: by
      real(r8), dimension(1, num_modes) :: na_1, volume_1, hygro_1, fn_1, fm_1, fn_difference_1, fm_difference_1
      real(r8) :: rh_1(1)
      integer :: m

      code = err_argument
      if (nmode < 1 .or. nmode > num_modes) then
        message = no_such_modes(nmode)
        return
      end if
      code = 0
      fn = 0._r8
      fm = 0._r8
      fluxn = 0._r8
      fluxm = 0._r8
      flux_fullact = 0._r8
      if (present(fn_difference)) fn_difference = 0._r8
      if (present(fm_difference)) fm_difference = 0._r8
      if (present(counters)) counters%points = counters%points + 1
      if (is_early()) then
        if (present(counters)) counters%early_returns = counters%early_returns + 1
        return
      end if
      rh_1 = by%settings%rh_if_absent
      if (present(rh)) rh_1 = rh
      do m = 1, num_modes
        if (m <= nmode) then
          na_1(1, m) = na(m)
          volume_1(1, m) = volume(m)
          hygro_1(1, m) = hygro(m)
        else
          na_1(1, m) = 0._r8
          volume_1(1, m) = 0._r8
          hygro_1(1, m) = 0._r8
        end if
      end do
      call fractions(by, 1, nmode, needs_first_mode, [w], wmaxf, [tair], [rhoair], rh_1, na_1, volume_1, hygro_1, &
        fn_1, fm_1, fn_difference_1, fm_difference_1, code, message, smax_prescribed, counters)
      if (code /= 0) then
        if (present(counters)) counters%points = counters%points - 1  ! fail_point counts it
        return
      end if
      do m = 1, nmode
        fn(m) = fn_1(1, m)
        fm(m) = fm_1(1, m)
        fluxn(m) = fn(m)*w_flux
        fluxm(m) = fm(m)*w_flux
        if (present(fn_difference)) fn_difference(m) = fn_difference_1(1, m)
        if (present(fm_difference)) fm_difference(m) = fm_difference_1(1, m)
      end do
      flux_fullact = w_flux
    end subroutine evaluate

    pure logical function is_early()
      is_early = .true.
      if (needs_first_mode .and. na(1) < negligible_number) return
      if (w <= 0._r8) return
      if (present(smax_prescribed)) then
        if (smax_prescribed <= 0._r8) return
      end if
      is_early = .false.
    end function is_early
  end subroutine activate_point

  subroutine fail_point(fn, fm, fluxn, fluxm, flux_fullact, counters, fn_difference, fm_difference)
    real(r8), intent(out) :: fn(:), fm(:), fluxn(:), fluxm(:), flux_fullact
    type(activation_counters), intent(inout), optional :: counters
    real(r8), intent(out), optional :: fn_difference(:), fm_difference(:)

    flux_fullact = ieee_value(flux_fullact, ieee_quiet_nan)
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

  function no_such_modes(nmode) result(message)
    integer, intent(in) :: nmode
    character(len=:), allocatable :: message
    character(len=12) :: found

    write(found, '(i0)') nmode
    message = 'nmode = '//trim(found)//', expected 1 to 4: the first of accumulation, Aitken, coarse, primary carbon'
  end function no_such_modes

  ! ---- what both have in common ----

  !> fn and fm of points at each of which something activates, side by side, in all of four modes.
  recursive subroutine fractions(self, n, nmode, needs_first_mode, w, wmaxf, tair, rhoair, rh, na, volume, hygro, fn, fm, &
      fn_difference, fm_difference, stat, message, smax_prescribed, counters)
    type(activation_emulator), intent(in) :: self
    integer, intent(in) :: n, nmode
    logical, intent(in) :: needs_first_mode
    real(r8), intent(in) :: w(n), wmaxf, tair(n), rhoair(n), rh(n)
    real(r8), dimension(n, num_modes), intent(in) :: na, volume, hygro
    real(r8), dimension(n, num_modes), intent(out) :: fn, fm, fn_difference, fm_difference
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: message
    real(r8), intent(in), optional :: smax_prescribed
    type(activation_counters), intent(inout), optional :: counters
    real(r8), dimension(num_modes) :: na_i, volume_i, hygro_i, fn_i, fm_i, fluxn_i, fluxm_i
    real(r8) :: flux_fullact_i
    logical :: is_outside(n), runs_emulator, runs_arg
    integer :: i, num_outside

    stat = 0
    runs_emulator = self%settings%runs_emulator .and. .not. present(smax_prescribed)
    runs_arg = self%settings%runs_arg .or. .not. runs_emulator
    is_outside = .true.
    if (runs_emulator) then
      call emulate(self, n, w, tair, rhoair, rh, na, volume, hygro, fn, fm, is_outside, stat, message, counters)
      if (stat /= 0) return
    end if
    num_outside = count(is_outside)
    fn_difference = 0._r8
    fm_difference = 0._r8
    do i = 1, n
      if (.not. (runs_arg .or. is_outside(i))) cycle
      na_i = na(i, :)
      volume_i = volume(i, :)
      hygro_i = hygro(i, :)
      fn_i = 0._r8
      fm_i = 0._r8
      call activate_modal_arg(w(i), wmaxf, tair(i), rhoair(i), na_i, nmode, volume_i, hygro_i, fn_i, fm_i, fluxn_i, &
        fluxm_i, flux_fullact_i, smax_prescribed, needs_first_mode=needs_first_mode)
      if (.not. is_outside(i)) then
        fn_difference(i, :) = fn(i, :) - fn_i
        fm_difference(i, :) = fm(i, :) - fm_i
      end if
      if (is_outside(i) .or. .not. self%settings%gives_emulator) then
        fn(i, :) = fn_i
        fm(i, :) = fm_i
      end if
    end do
    if (.not. present(counters)) return
    if (present(smax_prescribed)) then
      counters%prescribed = counters%prescribed + n
    else if (.not. runs_emulator) then
      counters%arg = counters%arg + n
    else
      counters%emulated = counters%emulated + (n - num_outside)
      counters%fallbacks = counters%fallbacks + num_outside
    end if
  end subroutine fractions

  !> The emulator's fn and fm, and where it must not be asked: there they mean nothing.
  recursive subroutine emulate(self, n, w, tair, rhoair, rh, na, volume, hygro, fn, fm, is_outside, stat, message, counters)
    type(activation_emulator), intent(in) :: self
    integer, intent(in) :: n
    real(r8), dimension(n), intent(in) :: w, tair, rhoair, rh
    real(r8), dimension(n, num_modes), intent(in) :: na, volume, hygro
    real(r8), dimension(n, num_modes), intent(out) :: fn, fm
    logical, intent(out) :: is_outside(n)
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: message
    type(activation_counters), intent(inout), optional :: counters
    real(r8) :: known(n, num_known_inputs), x(n, self%connection%num_inputs), y(n, self%connection%num_outputs)
    real(r8), dimension(num_modes) :: fn_i, fm_i
    integer :: i, m

    call emulator_inputs(n, 1, 1, n, 1, tair, rhoair, w, rh, na, volume, hygro, every_input, 0, n, known)
    call guard(self%connection, self%settings%bounds_added, n, na, volume, known, x, is_outside, counters)
    fn = 0._r8
    fm = 0._r8
    stat = 0
    if (all(is_outside)) return
    call self%model%infer(x, y, stat=stat, errmsg=message)
    if (stat /= 0) return
    if (self%connection%ln_smax > 0) then
      call activated_fractions(self%connection%kelvin, n, n, y(:, self%connection%ln_smax), known(:, tair_at), &
        known(:, rh_at), known(:, radius_at + 1:radius_at + num_modes), known(:, kappa_at + 1:kappa_at + num_modes), fn, fm)
    else
      do i = 1, n
        do m = 1, num_modes
          fn_i(m) = min(max(y(i, self%connection%fn(m)), 0._r8), 1._r8)
        end do
        call mass_from_number(fn_i, fm_i)
        fn(i, :) = fn_i
        fm(i, :) = fm_i
      end do
    end if
    do m = 1, num_modes
      do i = 1, n
        if (hygro(i, m) > inert_kappa .and. na(i, m) > absent_mode .and. volume(i, m) > absent_mode) cycle
        fn(i, m) = 0._r8
        fm(i, m) = 0._r8
      end do
    end do
  end subroutine emulate

  !> Which points are outside; and the model's inputs `x`, each within its range.
  pure recursive subroutine guard(c, bounds_added, n, na, volume, known, x, is_outside, counters)
    type(connection_t), intent(in) :: c
    logical, intent(in) :: bounds_added
    integer, intent(in) :: n
    real(r8), dimension(n, num_modes), intent(in) :: na, volume
    real(r8), intent(inout) :: known(n, num_known_inputs)  !! absent modes get a radius and kappa, rh is cut to its range
    real(r8), intent(inout) :: x(n, c%num_inputs)
    logical, intent(out) :: is_outside(n)
    type(activation_counters), intent(inout), optional :: counters
    real(r8), dimension(n) :: added, total
    integer :: i, j, m

    added = 0._r8
    total = 0._r8
    do m = 1, num_modes
      do i = 1, n
        if (na(i, m) > absent_mode .and. volume(i, m) > absent_mode) cycle
        known(i, number_at + m) = 0._r8
        known(i, radius_at + m) = max(c%lowest(radius_at + m), 0._r8)
        known(i, kappa_at + m) = max(c%lowest(kappa_at + m), 0._r8)
      end do
      do i = 1, n
        added(i) = added(i) + max(c%lowest(number_at + m) - known(i, number_at + m), 0._r8)
        total(i) = total(i) + known(i, number_at + m)
      end do
    end do
    is_outside = bounds_added .and. added > most_added*total
    do j = 1, num_known_inputs
      if (c%input(j) == 0) cycle
      do i = 1, n
        is_outside(i) = is_outside(i) .or. .not. (known(i, j) >= c%least(j) .and. known(i, j) <= c%largest(j))
        x(i, c%input(j)) = min(max(known(i, j), c%lowest(j)), c%highest(j))
      end do
      if (.not. present(counters)) cycle
      counters%low(j) = counters%low(j) + count(known(:, j) < c%low(j))
      counters%high(j) = counters%high(j) + count(known(:, j) > c%high(j))
      counters%nan(j) = counters%nan(j) + count(ieee_is_nan(known(:, j)))
    end do
    do i = 1, n
      known(i, rh_at) = min(max(known(i, rh_at), c%lowest(rh_at)), c%highest(rh_at))
    end do
  end subroutine guard
end module aerosol_activation_emulator
