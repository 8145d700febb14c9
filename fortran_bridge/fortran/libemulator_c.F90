!> The C functions of libemulator.h, fortran_handle.c and fortran_infer.c, as Fortran sees them, and text between the two languages.
!> Private to module libemulator.
module libemulator_c
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_double, c_f_pointer, c_float, c_int, c_int32_t, &
    c_int64_t, c_loc, c_null_char, c_ptr, c_size_t
  implicit none
  private
  public :: emu_options, emu_guard, emu_call, &
    emu_free, emu_load_with, emu_load_bytes_with, emu_num_inputs, emu_num_outputs, emu_num_parameters, &
    emu_input_name, emu_input_unit, emu_input_min, emu_input_max, emu_input_index, &
    emu_output_name, emu_output_unit, emu_output_min, emu_output_max, emu_output_index, &
    emu_require_inputs, emu_require_outputs, emu_metadata, emu_isa, emu_backend, emu_precision, emu_self_check, &
    emu_fortran_open, emu_fortran_share, emu_fortran_release, emu_fortran_model, &
    emu_fortran_record, emu_fortran_status, emu_fortran_message, emu_fortran_clear, &
    emu_fortran_check, emu_fortran_infer, emu_fortran_infer_f64, emu_fortran_infer_f32, &
    to_c, from_c, from_pointer, point_at

  ! structs of libemulator.h

  type, bind(C) :: emu_options
    integer(c_size_t) :: struct_size
    type(c_ptr) :: backend, isa, library
    integer(c_int32_t) :: precision, num_threads
  end type emu_options

  type, bind(C) :: emu_guard
    integer(c_size_t) :: struct_size
    integer(c_int32_t) :: clamp
    type(c_ptr) :: outside, below, above, nan
    integer(c_int64_t) :: num_samples, num_outside
  end type emu_guard

  !> The arrays of one call of infer, see fortran_infer.c
  type, bind(C) :: emu_call
    integer(c_int64_t) :: x_shape(2), y_shape(2), ncol, num_inputs
    integer(c_int32_t) :: all_columns, layout, value_size, unused
    type(c_ptr) :: x(3), y(3)
  end type emu_call

  interface
    subroutine emu_free(model) bind(C, name='emu_free')
      import :: c_ptr
      type(c_ptr), value :: model
    end subroutine emu_free

    integer(c_int) function emu_load_with(path, options, model, message, message_size) bind(C, name='emu_load_with')
      import :: c_char, c_int, c_ptr, c_size_t, emu_options
      character(kind=c_char), intent(in) :: path(*)
      type(emu_options), intent(in) :: options
      type(c_ptr), intent(out) :: model
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end function emu_load_with

    integer(c_int) function emu_load_bytes_with(bytes, num_bytes, options, model, message, message_size) &
        bind(C, name='emu_load_bytes_with')
      import :: c_char, c_int, c_ptr, c_size_t, emu_options
      type(c_ptr), value :: bytes
      integer(c_size_t), value :: num_bytes
      type(emu_options), intent(in) :: options
      type(c_ptr), intent(out) :: model
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end function emu_load_bytes_with

    pure integer(c_int64_t) function emu_num_inputs(model) bind(C, name='emu_num_inputs')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
    end function emu_num_inputs

    pure integer(c_int64_t) function emu_num_outputs(model) bind(C, name='emu_num_outputs')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
    end function emu_num_outputs

    pure integer(c_int64_t) function emu_num_parameters(model) bind(C, name='emu_num_parameters')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
    end function emu_num_parameters

    type(c_ptr) function emu_input_name(model, i) bind(C, name='emu_input_name')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_input_name

    type(c_ptr) function emu_input_unit(model, i) bind(C, name='emu_input_unit')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_input_unit

    type(c_ptr) function emu_output_name(model, i) bind(C, name='emu_output_name')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_output_name

    type(c_ptr) function emu_output_unit(model, i) bind(C, name='emu_output_unit')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_output_unit

    pure real(c_double) function emu_input_min(model, i) bind(C, name='emu_input_min')
      import :: c_double, c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_input_min

    pure real(c_double) function emu_input_max(model, i) bind(C, name='emu_input_max')
      import :: c_double, c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_input_max

    pure real(c_double) function emu_output_min(model, i) bind(C, name='emu_output_min')
      import :: c_double, c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_output_min

    pure real(c_double) function emu_output_max(model, i) bind(C, name='emu_output_max')
      import :: c_double, c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), value :: i
    end function emu_output_max

    integer(c_int64_t) function emu_input_index(model, name) bind(C, name='emu_input_index')
      import :: c_char, c_int64_t, c_ptr
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: name(*)
    end function emu_input_index

    integer(c_int64_t) function emu_output_index(model, name) bind(C, name='emu_output_index')
      import :: c_char, c_int64_t, c_ptr
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: name(*)
    end function emu_output_index

    integer(c_int) function emu_require_inputs(model, n, names, units, message, message_size) &
        bind(C, name='emu_require_inputs')
      import :: c_char, c_int, c_int64_t, c_ptr, c_size_t
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n
      type(c_ptr), intent(in) :: names(*), units(*)
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end function emu_require_inputs

    integer(c_int) function emu_require_outputs(model, n, names, units, message, message_size) &
        bind(C, name='emu_require_outputs')
      import :: c_char, c_int, c_int64_t, c_ptr, c_size_t
      type(c_ptr), value :: model
      integer(c_int64_t), value :: n
      type(c_ptr), intent(in) :: names(*), units(*)
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end function emu_require_outputs

    type(c_ptr) function emu_metadata(model, key) bind(C, name='emu_metadata')
      import :: c_char, c_ptr
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: key(*)
    end function emu_metadata

    type(c_ptr) function emu_isa(model) bind(C, name='emu_isa')
      import :: c_ptr
      type(c_ptr), value :: model
    end function emu_isa

    type(c_ptr) function emu_backend(model) bind(C, name='emu_backend')
      import :: c_ptr
      type(c_ptr), value :: model
    end function emu_backend

    pure integer(c_int) function emu_precision(model) bind(C, name='emu_precision')
      import :: c_int, c_ptr
      type(c_ptr), value :: model
    end function emu_precision

    integer(c_int) function emu_self_check(model, max_difference, message, message_size) &
        bind(C, name='emu_self_check')
      import :: c_char, c_double, c_int, c_ptr, c_size_t
      type(c_ptr), value :: model
      real(c_double), intent(out) :: max_difference
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end function emu_self_check

    ! fortran_handle.c

    type(c_ptr) function emu_fortran_open(model, generation) bind(C, name='emu_fortran_open')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: model
      integer(c_int64_t), intent(out) :: generation
    end function emu_fortran_open

    type(c_ptr) function emu_fortran_share(ticket, generation, new_generation) bind(C, name='emu_fortran_share')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      integer(c_int64_t), intent(out) :: new_generation
    end function emu_fortran_share

    subroutine emu_fortran_release(ticket, generation) bind(C, name='emu_fortran_release')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
    end subroutine emu_fortran_release

    pure type(c_ptr) function emu_fortran_model(ticket, generation) bind(C, name='emu_fortran_model')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
    end function emu_fortran_model

    subroutine emu_fortran_record(ticket, generation, status, message) bind(C, name='emu_fortran_record')
      import :: c_char, c_int, c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      integer(c_int), value :: status
      character(kind=c_char), intent(in) :: message(*)
    end subroutine emu_fortran_record

    integer(c_int) function emu_fortran_status(ticket, generation) bind(C, name='emu_fortran_status')
      import :: c_int, c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
    end function emu_fortran_status

    type(c_ptr) function emu_fortran_message(ticket, generation) bind(C, name='emu_fortran_message')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
    end function emu_fortran_message

    subroutine emu_fortran_clear(ticket, generation) bind(C, name='emu_fortran_clear')
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
    end subroutine emu_fortran_clear

    ! fortran_infer.c; pure as far as Fortran can tell: what they write are their arguments

    pure subroutine emu_fortran_check(ticket, generation, arrays, code, message, message_size) &
        bind(C, name='emu_fortran_check')
      import :: c_char, c_int, c_int64_t, c_ptr, c_size_t, emu_call
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      type(emu_call), intent(inout) :: arrays
      integer(c_int), intent(out) :: code
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end subroutine emu_fortran_check

    subroutine emu_fortran_infer(ticket, generation, arrays, guard, code, message, message_size) &
        bind(C, name='emu_fortran_infer')
      import :: c_char, c_int, c_int64_t, c_ptr, c_size_t, emu_call, emu_guard
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      type(emu_call), intent(in) :: arrays
      type(emu_guard), intent(inout) :: guard
      integer(c_int), intent(out) :: code
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end subroutine emu_fortran_infer

    pure subroutine emu_fortran_infer_f64(ticket, generation, arrays, guard, x, y, code, message, message_size) &
        bind(C, name='emu_fortran_infer_f64')
      import :: c_char, c_double, c_int, c_int64_t, c_ptr, c_size_t, emu_call, emu_guard
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      type(emu_call), intent(in) :: arrays
      type(emu_guard), intent(inout) :: guard
      real(c_double), intent(in) :: x(*)
      real(c_double), intent(inout) :: y(*)
      integer(c_int), intent(out) :: code
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end subroutine emu_fortran_infer_f64

    pure subroutine emu_fortran_infer_f32(ticket, generation, arrays, guard, x, y, code, message, message_size) &
        bind(C, name='emu_fortran_infer_f32')
      import :: c_char, c_float, c_int, c_int64_t, c_ptr, c_size_t, emu_call, emu_guard
      type(c_ptr), value :: ticket
      integer(c_int64_t), value :: generation
      type(emu_call), intent(in) :: arrays
      type(emu_guard), intent(inout) :: guard
      real(c_float), intent(in) :: x(*)
      real(c_float), intent(inout) :: y(*)
      integer(c_int), intent(out) :: code
      character(kind=c_char), intent(inout) :: message(*)
      integer(c_size_t), value :: message_size
    end subroutine emu_fortran_infer_f32

    ! the C library

    integer(c_size_t) function c_strlen(text) bind(C, name='strlen')
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function c_strlen
  end interface

contains

  pure function to_c(text) result(c_text)
    character(len=*), intent(in) :: text
    character(kind=c_char) :: c_text(len(text) + 1)
    integer :: i

    do i = 1, len(text)
      c_text(i) = text(i:i)
    end do
    c_text(len(text) + 1) = c_null_char
  end function to_c

  function from_c(c_text) result(text)
    character(kind=c_char), intent(in) :: c_text(:)
    character(len=:), allocatable :: text
    integer :: i, n

    n = 0
    do while (n < size(c_text))
      if (c_text(n + 1) == c_null_char) exit
      n = n + 1
    end do
    allocate(character(len=n) :: text)
    do i = 1, n
      text(i:i) = c_text(i)
    end do
  end function from_c

  function from_pointer(pointer) result(text)
    type(c_ptr), intent(in) :: pointer
    character(len=:), allocatable :: text
    character(kind=c_char), pointer :: c_text(:)

    if (c_associated(pointer)) then
      call c_f_pointer(pointer, c_text, [c_strlen(pointer)])
      text = from_c(c_text)
    else
      text = ''
    end if
  end function from_pointer

  subroutine point_at(texts, c_texts, pointers)
    character(len=*), intent(in) :: texts(:)
    character(kind=c_char), intent(out), target :: c_texts(:,:)
    type(c_ptr), intent(out) :: pointers(:)
    integer :: i

    do i = 1, size(texts)
      c_texts(1:len_trim(texts(i)) + 1, i) = to_c(trim(texts(i)))
      pointers(i) = c_loc(c_texts(1, i))
    end do
  end subroutine point_at

end module libemulator_c
