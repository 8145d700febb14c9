!> What happened at the ends of the training ranges: the argument `guard` of infer (the module libemulator offers the type).
module libemulator_guard
  use, intrinsic :: iso_c_binding, only: c_int, c_loc, c_null_ptr, c_sizeof
  use, intrinsic :: iso_fortran_env, only: int32, int64
  use libemulator_c, only: emu_guard
  implicit none
  private
  public :: emulator_guard, prepare_guard, no_guard, guard_view, take_counters

  !> Counters of the caller's own: one variable for each thread (or chunk, or iteration), added up afterwards by `add`.
  !> infer allocates the arrays at the first call, and outside again when it is too short.
  type :: emulator_guard
    logical :: clamp = .false.                  !! evaluate with each input moved to the nearest end of its range
    integer(int64) :: num_samples = 0           !! columns seen
    integer(int64) :: num_outside = 0           !! columns with at least one input outside its range or NaN
    integer(int64), allocatable :: below(:)     !! (num_inputs) columns with that input below its range
    integer(int64), allocatable :: above(:)     !! (num_inputs) the same above it
    integer(int64), allocatable :: nan(:)       !! (num_inputs) the same NaN
    !> (1:ncol) of the last call: the number of inputs of the column that are outside or NaN; 0 means all is well.
    !> A host calls its own scheme for the columns where it is not.
    integer(int32), allocatable :: outside(:)
  contains
    procedure :: reset, add
  end type emulator_guard

contains

  !> All counters 0 and no flags; clamp stays
  pure subroutine reset(self)
    class(emulator_guard), intent(inout) :: self

    self%num_samples = 0
    self%num_outside = 0
    if (allocated(self%below)) deallocate(self%below)
    if (allocated(self%above)) deallocate(self%above)
    if (allocated(self%nan)) deallocate(self%nan)
    if (allocated(self%outside)) deallocate(self%outside)
  end subroutine reset

  !> Add another guard's counters. The flags `outside` belong to one call and are not added. Guards of models with
  !> different numbers of inputs cannot be added: then nothing is, and stat is not 0.
  pure subroutine add(self, other, stat)
    class(emulator_guard), intent(inout) :: self
    class(emulator_guard), intent(in) :: other
    integer, intent(out), optional :: stat
    logical :: fits

    fits = .true.
    if (allocated(self%below) .and. allocated(other%below)) fits = size(self%below) == size(other%below)
    if (present(stat)) stat = merge(0, 1, fits)
    if (.not. fits) return
    self%num_samples = self%num_samples + other%num_samples
    self%num_outside = self%num_outside + other%num_outside
    call add_counts(self%below, other%below)
    call add_counts(self%above, other%above)
    call add_counts(self%nan, other%nan)
  end subroutine add

  pure subroutine add_counts(to, from)
    integer(int64), allocatable, intent(inout) :: to(:)
    integer(int64), allocatable, intent(in) :: from(:)

    if (.not. allocated(from)) return
    if (allocated(to)) then
      to = to + from
    else
      allocate(to(size(from)))
      to = from
    end if
  end subroutine add_counts

  ! ---- for infer ----

  !> Arrays for so many inputs and columns; good is false if they exist for another number of inputs, or without memory
  pure subroutine prepare_guard(guard, num_inputs, ncol, good)
    type(emulator_guard), intent(inout) :: guard
    integer(int64), intent(in) :: num_inputs, ncol
    logical, intent(out) :: good
    integer :: failed

    call prepare_counts(guard%below, num_inputs, good)
    if (good) call prepare_counts(guard%above, num_inputs, good)
    if (good) call prepare_counts(guard%nan, num_inputs, good)
    if (.not. good) return
    if (allocated(guard%outside)) then
      if (size(guard%outside, kind=int64) >= ncol) return
      deallocate(guard%outside)
    end if
    allocate(guard%outside(ncol), stat=failed)
    good = failed == 0
    if (good) guard%outside = 0
  end subroutine prepare_guard

  pure subroutine prepare_counts(counts, num_inputs, good)
    integer(int64), allocatable, intent(inout) :: counts(:)
    integer(int64), intent(in) :: num_inputs
    logical, intent(out) :: good
    integer :: failed

    if (allocated(counts)) then
      good = size(counts, kind=int64) == num_inputs
      return
    end if
    allocate(counts(num_inputs), stat=failed)
    good = failed == 0
    if (good) counts = 0
  end subroutine prepare_counts

  !> What the C function takes for "no guard"
  pure type(emu_guard) function no_guard()
    no_guard = emu_guard(0, 0, c_null_ptr, c_null_ptr, c_null_ptr, c_null_ptr, 0, 0)
  end function no_guard

  !> The C struct that points at the guard's arrays
  pure subroutine guard_view(guard, view)
    type(emulator_guard), intent(inout), target :: guard
    type(emu_guard), intent(out) :: view

    view = no_guard()
    view%struct_size = c_sizeof(view)
    view%clamp = merge(1_c_int, 0_c_int, guard%clamp)
    if (size(guard%below) > 0) then
      view%below = c_loc(guard%below(1))
      view%above = c_loc(guard%above(1))
      view%nan = c_loc(guard%nan(1))
    end if
    if (size(guard%outside) > 0) view%outside = c_loc(guard%outside(1))
    view%num_samples = guard%num_samples
    view%num_outside = guard%num_outside
  end subroutine guard_view

  pure subroutine take_counters(guard, view)
    type(emulator_guard), intent(inout) :: guard
    type(emu_guard), intent(in) :: view

    guard%num_samples = view%num_samples
    guard%num_outside = view%num_outside
  end subroutine take_counters

end module libemulator_guard
