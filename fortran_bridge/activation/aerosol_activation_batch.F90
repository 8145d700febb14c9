!> A connected emulator: what is done once, at start, and the routine for many points. Offered to hosts by
!! aerosol_activation_emulator, whose head says what is kept of the original, what happens outside of the training range,
!! and what is promised.
module aerosol_activation_batch
  use, intrinsic :: iso_fortran_env, only: int8
  use aerosol_activation_connection, only: connection_t, connect_model, max_outputs, rh_at => rh
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_counters, only: activation_counters
  use aerosol_activation_evaluation, only: settings_t, evaluate, num_state, num_results, num_work, w_at => w, &
    tair_at => tair, rhoair_at => rhoair, rh_in => rh, na_at => na, volume_at => volume, hygro_at => hygro, fn_at => fn, &
    fm_at => fm, fn_difference_at => fn_difference, fm_difference_at => fm_difference
  use aerosol_activation_nan, only: is_nan, quiet_nan
  use libemulator, only: emulator_model
  implicit none
  private
  public :: activation_emulator, negligible_number, err_argument, no_such_modes

  real(r8), parameter :: negligible_number = 1.e-20_r8  !! m-3, in mode 1: no activation at all
  integer, parameter :: block = 32                      !! points at a time: their work space fits into the first cache
  integer, parameter :: err_argument = 1, err_mismatch = 7  ! of libemulator.h

  !> The components are for the routines beside this module, and for inquiries: they are not to be changed.
  type :: activation_emulator
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
    character(len=:), allocatable :: check_inputs
    real(r8) :: used_margin

    used_margin = 0.01_r8
    if (present(margin)) used_margin = margin
    if (present(fallback)) self%settings%fallback = fallback
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
    call connect_model(self%model, used_margin, self%settings%fallback, self%connection, errmsg)
    if (allocated(errmsg)) return
    stat = 0
    check_inputs = self%model%metadata('libemulator.check_inputs')
    if (check_inputs /= '') call self%model%self_check(stat=stat, errmsg=errmsg)
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
    if (self%settings%fallback) then
      line = line//', ARG outside of the training range'
    else
      line = line//', held at the ends of the training range'
    end if
  end function describe

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
    !> 0, or a status of libemulator.h: then what was not reached, and all fluxes of modes, are NaN
    integer, intent(out) :: stat
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
    real(r8) :: states(block*num_state), results(block*num_results), work(block*num_work), y(block*max_outputs)
    integer :: points(block)  !! of the block
    integer :: first, last, num_points, i
    logical :: is_outside(block), is_active, asks_first_mode

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
        if (.not. is_active) cycle
        if (w(i) <= 0._r8 .and. .not. is_nan(w(i))) cycle
        if (asks_first_mode .and. na(i, 1) < negligible_number .and. .not. is_nan(na(i, 1))) cycle
        num_points = num_points + 1
        points(num_points) = i - first + 1
      end do
      if (num_points < last - first + 1) call zero(first, last)
      if (num_points > 0) call gathered(num_points, states, results)
      if (stat /= 0) then
        call fail(first)
        return
      end if
      if (present(counters)) counters%early_returns = counters%early_returns + (last - first + 1 - num_points)
    end do
  contains

    subroutine zero(from, to)
      integer, intent(in) :: from, to

      fn(from:to, :) = 0._r8
      fm(from:to, :) = 0._r8
      if (present(fluxn)) fluxn(from:to, :) = 0._r8
      if (present(fluxm)) fluxm(from:to, :) = 0._r8
      if (present(flux_fullact)) flux_fullact(from:to) = 0._r8
      if (present(fn_difference)) fn_difference(from:to, :) = 0._r8
      if (present(fm_difference)) fm_difference(from:to, :) = 0._r8
    end subroutine zero

    !> The points of the block at which something activates, side by side; and back. n: num_points.
    subroutine gathered(n, state, results)
      integer, intent(in) :: n
      real(r8), intent(inout) :: state(n, num_state), results(n, num_results)
      integer :: k

      call pick(n, points, w(first:last), state(:, w_at))
      call pick(n, points, tair(first:last), state(:, tair_at))
      call pick(n, points, rhoair(first:last), state(:, rhoair_at))
      if (present(rh)) then
        call pick(n, points, rh(first:last), state(:, rh_in))
      else
        state(:, rh_in) = self%settings%rh_if_absent
      end if
      do k = 1, nmode
        call pick(n, points, na(first:last, k), state(:, na_at + k))
        call pick(n, points, volume(first:last, k), state(:, volume_at + k))
        call pick(n, points, hygro(first:last, k), state(:, hygro_at + k))
      end do
      do k = nmode + 1, num_modes
        state(:, na_at + k) = 0._r8
        state(:, volume_at + k) = 0._r8
        state(:, hygro_at + k) = 0._r8
      end do
      call evaluate(self%model, self%connection, self%settings, n, nmode, asks_first_mode, &
        present(fn_difference) .or. present(fm_difference), wmaxf, state, results, work, y, is_outside, stat, message, &
        smax_prescribed, counters)
      if (stat /= 0) return
      do k = 1, nmode
        call put(n, points, results(:, fn_at + k), fn(first:last, k))
        call put(n, points, results(:, fm_at + k), fm(first:last, k))
        if (present(fluxn)) call put_flux(n, points, state(:, w_at), results(:, fn_at + k), fluxn(first:last, k))
        if (present(fluxm)) call put_flux(n, points, state(:, w_at), results(:, fm_at + k), fluxm(first:last, k))
        if (present(fn_difference)) call put(n, points, results(:, fn_difference_at + k), fn_difference(first:last, k))
        if (present(fm_difference)) call put(n, points, results(:, fm_difference_at + k), fm_difference(first:last, k))
      end do
      if (present(flux_fullact)) call put(n, points, state(:, w_at), flux_fullact(first:last))
    end subroutine gathered

    subroutine fail(from)
      integer, intent(in) :: from
      real(r8) :: nan
      integer :: to

      nan = quiet_nan()
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

  !> Points of a block, side by side; all of them, as they stand, where there are n.
  pure subroutine pick(n, points, from, to)
    integer, intent(in) :: n, points(n)
    real(r8), intent(in), contiguous :: from(:)
    real(r8), intent(inout) :: to(n)
    integer :: j

    if (n == size(from)) then
      to = from
    else
      do j = 1, n
        to(j) = from(points(j))
      end do
    end if
  end subroutine pick

  !> And back.
  pure subroutine put(n, points, from, to)
    integer, intent(in) :: n, points(n)
    real(r8), intent(in) :: from(n)
    real(r8), intent(inout), contiguous :: to(:)
    integer :: j

    if (n == size(to)) then
      to = from
    else
      do j = 1, n
        to(points(j)) = from(j)
      end do
    end if
  end subroutine put

  !> The flux of a fraction into cloud, m s-1.
  pure subroutine put_flux(n, points, w, fraction, to)
    integer, intent(in) :: n, points(n)
    real(r8), intent(in) :: w(n), fraction(n)  !! m s-1 and 1
    real(r8), intent(inout), contiguous :: to(:)
    integer :: j

    if (n == size(to)) then
      do j = 1, n
        to(j) = fraction(j)*w(j)
      end do
    else
      do j = 1, n
        to(points(j)) = fraction(j)*w(j)
      end do
    end if
  end subroutine put_flux

  function no_such_modes(nmode) result(message)
    integer, intent(in) :: nmode
    character(len=:), allocatable :: message
    character(len=12) :: found

    write(found, '(i0)') nmode
    message = 'nmode = '//trim(found)//', expected 1 to 4: the first of accumulation, Aitken, coarse, primary carbon'
  end function no_such_modes
end module aerosol_activation_batch
