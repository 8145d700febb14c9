!> Compares two history or restart files of the host bit for bit, and says of each variable whether it is the same, as
!! E3SM's cprnc does. Variables with a record dimension are compared at the steps that both files hold.
!!
!! Usage: compare_history FILE FILE
!!
!! Exit status 0: identical; 1: different; 2: they cannot be compared, with a message on standard error.
program compare_history
  use, intrinsic :: ieee_arithmetic, only: ieee_is_finite
  use, intrinsic :: iso_fortran_env, only: error_unit, int64, output_unit
  use aerosol_activation_constants, only: r8
  use netcdf
  implicit none

  type :: file_t
    character(len=:), allocatable :: path
    integer :: ncid = -1, num_variables = 0, record_dim = -1
    integer, allocatable :: steps(:)  !! of each record
  end type file_t

  type(file_t) :: a, b
  integer :: varid, num_compared, num_different
  logical :: same

  if (command_argument_count() /= 2) call give_up('usage: compare_history FILE FILE')
  a = opened(1)
  b = opened(2)
  num_compared = 0
  num_different = 0
  do varid = 1, a%num_variables
    call compare(varid, num_compared, num_different)
  end do
  do varid = 1, b%num_variables
    call report_missing(varid, num_different)
  end do
  if (num_compared == 0) call give_up(a%path//' and '//b%path//' have no variable and no step in common')
  same = num_different == 0
  write(output_unit, '(a, i0, a, i0, a)') ' ', num_compared, ' variables compared, ', num_different, ' differ'
  write(output_unit, '(2a)') ' the two files seem to be ', trim(merge('IDENTICAL', 'DIFFERENT', same))
  if (.not. same) stop 1, quiet=.true.

contains

  function opened(argument) result(file)
    integer, intent(in) :: argument
    type(file_t) :: file
    integer :: length, step_id

    call get_command_argument(argument, length=length)
    allocate(character(len=length) :: file%path)
    call get_command_argument(argument, file%path)
    call check(file, nf90_open(file%path, nf90_nowrite, file%ncid))
    call check(file, nf90_inquire(file%ncid, nvariables=file%num_variables, unlimiteddimid=file%record_dim))
    allocate(file%steps(0))
    if (file%record_dim == -1) return
    call check(file, nf90_inquire_dimension(file%ncid, file%record_dim, len=length))
    deallocate(file%steps)
    allocate(file%steps(length))
    call check(file, nf90_inq_varid(file%ncid, 'step', step_id))
    call check(file, nf90_get_var(file%ncid, step_id, file%steps))
  end function opened

  !> One variable of the first file with its namesake; integers are those of `step`, which pairs the records.
  subroutine compare(id, num_compared, num_different)
    integer, intent(in) :: id
    integer, intent(inout) :: num_compared, num_different
    character(len=nf90_max_name) :: name
    integer, allocatable :: shape_a(:), shape_b(:)
    integer :: other, kind_a, kind_b, record_a, record_b, n, num_records
    logical :: has_records, other_has_records
    integer(int64) :: differing, values
    real(r8) :: square, largest

    call describe(a, id, name, kind_a, shape_a, has_records)
    if (kind_a /= nf90_double) return
    if (nf90_inq_varid(b%ncid, trim(name), other) /= nf90_noerr) then
      write(output_unit, '(3a)') ' ', name(:12), ' is only in the first file'
      num_different = num_different + 1
      return
    end if
    call describe(b, other, name, kind_b, shape_b, other_has_records)
    n = size(shape_a) - merge(1, 0, has_records)
    if (kind_b /= kind_a .or. size(shape_a) /= size(shape_b) .or. (has_records .neqv. other_has_records)) then
      write(output_unit, '(3a)') ' ', name(:12), ' has another type or other dimensions in the second file'
      num_different = num_different + 1
      return
    else if (any(shape_a(:n) /= shape_b(:n))) then
      write(output_unit, '(3a)') ' ', name(:12), ' has other extents in the second file'
      num_different = num_different + 1
      return
    end if
    differing = 0
    values = 0
    square = 0._r8
    largest = 0._r8
    num_records = 0
    if (has_records) then
      do record_a = 1, size(a%steps)
        record_b = position(b%steps, a%steps(record_a))
        if (record_b == 0) cycle
        num_records = num_records + 1
        call compare_values(id, other, [shape_a(:n), 1], record_a, record_b, differing, values, square, largest)
      end do
      if (num_records == 0) return
    else
      call compare_values(id, other, shape_a, 0, 0, differing, values, square, largest)
    end if
    num_compared = num_compared + 1
    if (differing == 0) then
      write(output_unit, '(3a, i0, a, i0, a)') ' ', name(:12), ' IDENTICAL  values ', values, ', records ', num_records
    else
      num_different = num_different + 1
      write(output_unit, '(3a, es10.3, a, es10.3, 2(a, i0), a, i0)') ' ', name(:12), ' RMS ', &
        sqrt(square/real(values, r8)), ', largest ', largest, ', differing values ', differing, ' of ', values, &
        ', records ', num_records
    end if
  end subroutine compare

  !> Adds up over a record, or over a whole variable where `record_a` is 0.
  subroutine compare_values(id_a, id_b, counts, record_a, record_b, differing, values, square, largest)
    integer, intent(in) :: id_a, id_b, counts(:), record_a, record_b
    integer(int64), intent(inout) :: differing, values
    real(r8), intent(inout) :: square, largest
    real(r8), allocatable :: va(:), vb(:)
    integer :: start_a(size(counts)), start_b(size(counts)), i

    start_a = 1
    start_b = 1
    if (record_a > 0) then
      start_a(size(counts)) = record_a
      start_b(size(counts)) = record_b
    end if
    allocate(va(product(counts)), vb(product(counts)))
    call check(a, nf90_get_var(a%ncid, id_a, va, start=start_a, count=counts))
    call check(b, nf90_get_var(b%ncid, id_b, vb, start=start_b, count=counts))
    values = values + size(va)
    do i = 1, size(va)
      if (transfer(va(i), values) == transfer(vb(i), values)) cycle
      differing = differing + 1
      if (.not. (ieee_is_finite(va(i)) .and. ieee_is_finite(vb(i)))) then
        largest = huge(largest)  ! a number has no distance from NaN
        cycle
      end if
      square = square + (va(i) - vb(i))**2
      largest = max(largest, abs(va(i) - vb(i)))
    end do
  end subroutine compare_values

  subroutine describe(file, id, name, kind, extents, has_records)
    type(file_t), intent(in) :: file
    integer, intent(in) :: id
    character(len=nf90_max_name), intent(out) :: name
    integer, intent(out) :: kind
    integer, allocatable, intent(out) :: extents(:)
    logical, intent(out) :: has_records
    integer :: num_dims, dims(nf90_max_var_dims), i

    call check(file, nf90_inquire_variable(file%ncid, id, name=name, xtype=kind, ndims=num_dims, dimids=dims))
    allocate(extents(num_dims))
    do i = 1, num_dims
      call check(file, nf90_inquire_dimension(file%ncid, dims(i), len=extents(i)))
    end do
    has_records = .false.
    if (num_dims > 0) has_records = dims(num_dims) == file%record_dim
  end subroutine describe

  subroutine report_missing(id, num_different)
    integer, intent(in) :: id
    integer, intent(inout) :: num_different
    character(len=nf90_max_name) :: name
    integer, allocatable :: extents(:)
    integer :: kind, other
    logical :: has_records

    call describe(b, id, name, kind, extents, has_records)
    if (nf90_inq_varid(a%ncid, trim(name), other) == nf90_noerr) return
    write(output_unit, '(3a)') ' ', name(:12), ' is only in the second file'
    num_different = num_different + 1
  end subroutine report_missing

  pure integer function position(values, wanted)
    integer, intent(in) :: values(:), wanted

    do position = 1, size(values)
      if (values(position) == wanted) return
    end do
    position = 0
  end function position

  subroutine check(file, status)
    type(file_t), intent(in) :: file
    integer, intent(in) :: status

    if (status /= nf90_noerr) call give_up("'"//file%path//"': "//trim(nf90_strerror(status)))
  end subroutine check

  subroutine give_up(message)
    character(len=*), intent(in) :: message

    write(error_unit, '(2a)') 'compare_history: ', message
    stop 2, quiet=.true.
  end subroutine give_up
end program compare_history
