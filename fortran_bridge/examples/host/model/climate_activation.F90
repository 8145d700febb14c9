!> The narrow place through which a chunk's physics calls activation: one procedure, four schemes.
!!
!! 'arg', 'emulator' and 'both' go through the drop-in of E3SM's routine, point by point or all points of a call site at
!! once; 'external' through a function that another program gave. Nothing here is changed after `connect`: threads share
!! it. What is counted and timed is the caller's.
module climate_activation
  use, intrinsic :: iso_c_binding, only: c_int, c_int64_t, c_ptr, c_null_ptr
  use, intrinsic :: iso_fortran_env, only: int8, int64
  use aerosol_activation_arg, only: default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_emulator, only: activation_emulator, activation_counters, activate_modal_emulator
  use activation_timing, only: clock_ns
  use climate_config, only: config_t
  use climate_external, only: external_activation
  use climate_state, only: points_t, fractions_t
  implicit none
  private
  public :: activation_t, tally_t, connect, activate

  type :: activation_t
    type(activation_emulator) :: scheme      !! whose numbers the host takes
    type(activation_emulator) :: reference   !! timed on the same points; its numbers are dropped
    logical :: has_reference = .false.
    logical :: point_by_point = .false.
    procedure(external_activation), pointer, nopass :: external => null()
    type(c_ptr) :: context = c_null_ptr      !! for the external function
  end type activation_t

  !> Counts and thread time, ns, of calls; additive.
  type :: tally_t
    type(activation_counters) :: counters
    integer(int64) :: points = 0
    integer(int64) :: scheme_ns = 0, reference_ns = 0
  contains
    procedure :: add
  end type tally_t

contains

  !> `bytes` is the model file, empty where no scheme needs it.
  subroutine connect(config, bytes, external, context, activation, errmsg)
    type(config_t), intent(in) :: config
    integer(int8), intent(in) :: bytes(:)
    procedure(external_activation), pointer, intent(in) :: external
    type(c_ptr), intent(in) :: context
    type(activation_t), intent(inout) :: activation
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: message
    integer :: stat

    activation%point_by_point = config%batching == 'point'
    activation%has_reference = config%reference /= 'none'
    stat = 0
    if (config%scheme == 'external') then
      if (.not. associated(external)) then
        errmsg = "scheme = 'external', but no function is given: call climate_host_run of the library with one"
        return
      end if
      activation%external => external
      activation%context = context
    else if (config%scheme /= 'arg') then
      call activation%scheme%connect(bytes, stat, message, scheme=trim(config%scheme), &
        result_of=trim(config%result_of), fallback=config%fallback)
    end if
    if (stat == 0 .and. config%reference == 'emulator') &
      call activation%reference%connect(bytes, stat, message, scheme='emulator', fallback=config%fallback)
    if (stat /= 0) errmsg = "model '"//trim(config%model)//"': "//message
  end subroutine connect

  !> Fractions and fluxes at the gathered points. On failure `errmsg` is allocated.
  subroutine activate(activation, points, tally, errmsg)
    type(activation_t), intent(in) :: activation
    type(points_t), intent(inout) :: points
    type(tally_t), intent(inout) :: tally
    character(len=:), allocatable, intent(inout) :: errmsg
    logical :: reference_first

    if (points%n == 0) return
    tally%points = tally%points + points%n
    ! Who comes first finds the points in a farther cache: scheme and reference take turns, at either call site.
    reference_first = mod(points%calls/2, 2) == 1
    points%calls = points%calls + 1
    if (activation%has_reference .and. reference_first) call evaluate_reference(activation, points, tally, errmsg)
    if (.not. allocated(errmsg)) call evaluate_scheme(activation, points, tally, errmsg)
    if (allocated(errmsg)) return
    if (activation%has_reference .and. .not. reference_first) call evaluate_reference(activation, points, tally, errmsg)
  end subroutine activate

  subroutine evaluate_scheme(activation, points, tally, errmsg)
    type(activation_t), intent(in) :: activation
    type(points_t), intent(inout) :: points
    type(tally_t), intent(inout) :: tally
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(int64) :: start

    start = clock_ns()
    if (associated(activation%external)) then
      call by_external(activation, points, points%found, errmsg)
    else
      call by_drop_in(activation%scheme, activation%point_by_point, points, points%found, tally%counters, errmsg)
    end if
    tally%scheme_ns = tally%scheme_ns + clock_ns() - start
  end subroutine evaluate_scheme

  subroutine evaluate_reference(activation, points, tally, errmsg)
    type(activation_t), intent(in) :: activation
    type(points_t), intent(inout) :: points
    type(tally_t), intent(inout) :: tally
    character(len=:), allocatable, intent(inout) :: errmsg
    type(activation_counters) :: not_the_hosts
    integer(int64) :: start

    start = clock_ns()
    call by_drop_in(activation%reference, activation%point_by_point, points, points%dropped, not_the_hosts, errmsg)
    tally%reference_ns = tally%reference_ns + clock_ns() - start
  end subroutine evaluate_reference

  subroutine by_drop_in(emulator, point_by_point, points, found, counters, errmsg)
    type(activation_emulator), intent(in) :: emulator
    logical, intent(in) :: point_by_point
    type(points_t), intent(in) :: points
    type(fractions_t), intent(inout) :: found
    type(activation_counters), intent(inout) :: counters
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: message
    integer :: stat

    if (point_by_point) then
      call each_point(emulator, points, found, counters, stat, message)
    else
      call emulator%activate(size(points%w), points%n, num_modes, points%w, default_max_updraft, points%tair, &
        points%rhoair, points%na, points%volume, points%hygro, found%fn, found%fm, stat, rh=points%rh, &
        fluxn=found%fluxn, fluxm=found%fluxm, flux_fullact=found%flux_fullact, counters=counters, &
        fn_difference=found%fn_difference, fm_difference=found%fm_difference, errmsg=message)
    end if
    if (stat /= 0) errmsg = 'activation: '//message
  end subroutine by_drop_in

  !> E3SM's way: a call per point.
  subroutine each_point(emulator, points, found, counters, stat, message)
    type(activation_emulator), intent(in) :: emulator
    type(points_t), intent(in) :: points
    type(fractions_t), intent(inout) :: found
    type(activation_counters), intent(inout) :: counters
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: message
    real(r8), dimension(num_modes) :: na, volume, hygro, fn, fm, fluxn, fluxm, fn_difference, fm_difference
    integer :: i

    stat = 0
    do i = 1, points%n
      na = points%na(i, :)
      volume = points%volume(i, :)
      hygro = points%hygro(i, :)
      call activate_modal_emulator(points%w(i), default_max_updraft, points%tair(i), points%rhoair(i), na, num_modes, &
        volume, hygro, fn, fm, fluxn, fluxm, found%flux_fullact(i), rh=points%rh(i), emulator=emulator, &
        counters=counters, fn_difference=fn_difference, fm_difference=fm_difference, stat=stat, errmsg=message)
      if (stat /= 0) return
      found%fn(i, :) = fn
      found%fm(i, :) = fm
      found%fluxn(i, :) = fluxn
      found%fluxm(i, :) = fluxm
      found%fn_difference(i, :) = fn_difference
      found%fm_difference(i, :) = fm_difference
    end do
  end subroutine each_point

  subroutine by_external(activation, points, found, errmsg)
    type(activation_t), intent(in) :: activation
    type(points_t), intent(in) :: points
    type(fractions_t), intent(inout) :: found
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(c_int) :: stat
    integer :: i

    stat = activation%external(activation%context, int(points%n, c_int64_t), size(points%w, kind=c_int64_t), points%w, &
      points%tair, points%rhoair, points%rh, points%na, points%volume, points%hygro, found%fn, found%fm)
    if (stat /= 0) then
      errmsg = 'activation: the external function failed'
      return
    end if
    do i = 1, points%n
      found%fluxn(i, :) = found%fn(i, :)*points%w(i)
      found%fluxm(i, :) = found%fm(i, :)*points%w(i)
      found%flux_fullact(i) = points%w(i)
      found%fn_difference(i, :) = 0._r8
      found%fm_difference(i, :) = 0._r8
    end do
  end subroutine by_external

  pure subroutine add(self, other)
    class(tally_t), intent(inout) :: self
    type(tally_t), intent(in) :: other

    call self%counters%add(other%counters)
    self%points = self%points + other%points
    self%scheme_ns = self%scheme_ns + other%scheme_ns
    self%reference_ns = self%reference_ns + other%reference_ns
  end subroutine add
end module climate_activation
