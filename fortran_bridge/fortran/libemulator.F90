!> libemulator for Fortran hosts: load a network emulator (model.onnx) and evaluate it.
!>
!>     use libemulator, only: emulator_model
!>     type(emulator_model) :: model
!>     call model%load('model.onnx', stat, errmsg)
!>     call model%infer(x, y, ncol=ncol, stat=stat, errmsg=errmsg)   ! x(pcols, num_inputs), y(pcols, num_outputs)
!>
!> Errors. Every procedure that can fail takes `stat` and `errmsg`, both optional. stat is 0 on success, else an
!> emu_status of libemulator.h; errmsg is allocated only on failure. A call without stat keeps its error in the model:
!> the first one stays there (`status()`, `message()`) until `clear_status()`. Nothing here stops, prints or aborts.
!> When a call fails, its output arguments are unchanged.
!>
!> Threads. `infer` and every inquiry take the model as intent(in): one model may be shared by all OpenMP threads.
!> load, free and assignment to a model must not run while another thread uses that same variable. Keep the model
!> shared: a private or firstprivate copy of it is not a copy that Fortran knows of.
!>
!> Copies. `a = b` shares one loaded model and one kept error; it is freed with the last copy. (gfortran 12 finalizes
!> the temporary through which it copies a type that *contains* a model: such a copy may lose its model, and say so
!> by is_loaded(), when the procedure that made it ends. Assign the model itself.)
!>
!> What infer promises (same bits for any batch, layout, thread; NaN; floating-point traps) is in libemulator.h.
module libemulator
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_double, c_int, c_int64_t, c_intptr_t, c_loc, &
    c_null_ptr, c_ptr, c_size_t
  use, intrinsic :: iso_fortran_env, only: int8, int64, real32, real64
  use libemulator_c
  implicit none
  private

  public :: emulator_model
  !> layout of the arrays of infer: which dimension counts the columns (samples)
  integer, parameter, public :: columns_first = 1  !! x(pcols, num_inputs), y(pcols, num_outputs): the default
  integer, parameter, public :: inputs_first = 2   !! x(num_inputs, pcols), y(num_outputs, pcols)

  integer, parameter :: message_size = 1024
  integer(c_int), parameter :: ok = 0, err_argument = 1, err_memory = 6

  type :: emulator_model
    private
    type(c_ptr) :: ticket = c_null_ptr  !! for a counted model, see fortran_handle.c
    integer(c_int64_t) :: generation = 0
  contains
    procedure :: load, load_bytes, free
    generic :: infer => infer_real64, infer_real32
    procedure :: is_loaded, isa, metadata
    procedure :: num_inputs, num_outputs, num_parameters
    procedure :: input_name, input_unit, input_min, input_max, input_index
    procedure :: output_name, output_unit, output_min, output_max, output_index
    procedure :: require_inputs, require_outputs, self_check
    procedure :: status, message, clear_status
    generic :: assignment(=) => assign_model
    procedure, private :: infer_real64, infer_real32, assign_model, c_model
    final :: finalize_model
  end type emulator_model

contains

  !> Read a model file. A model that was loaded before is given back first, also when the new one cannot be loaded.
  subroutine load(self, path, stat, errmsg)
    class(emulator_model), intent(inout) :: self
    character(len=*), intent(in) :: path                              !! trailing blanks do not count
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(kind=c_char) :: text(message_size)
    type(c_ptr) :: model
    integer(c_int) :: code

    code = emu_load(to_c(trim(path)), model, text, int(message_size, c_size_t))
    call settle(self, code, model)
    call report(self, code, from_c(text), stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine load

  !> The same from the bytes of the file: one rank reads and broadcasts them, every rank calls this.
  subroutine load_bytes(self, bytes, stat, errmsg)
    class(emulator_model), intent(inout) :: self
    integer(int8), intent(in), contiguous, target :: bytes(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(kind=c_char) :: text(message_size)
    type(c_ptr) :: model, start
    integer(c_int) :: code

    start = c_null_ptr
    if (size(bytes) > 0) start = c_loc(bytes)
    code = emu_load_bytes(start, size(bytes, kind=c_size_t), model, text, int(message_size, c_size_t))
    call settle(self, code, model)
    call report(self, code, from_c(text), stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine load_bytes

  !> Put what a load came to into self. Without memory for a ticket, what was loaded is given back.
  subroutine settle(self, code, model)
    class(emulator_model), intent(inout) :: self
    integer(c_int), intent(inout) :: code
    type(c_ptr), intent(in) :: model

    call self%free()
    self%ticket = emu_fortran_open(model, self%generation)
    if (.not. c_associated(self%ticket)) then
      call emu_free(model)
      if (code == ok) code = err_memory
    end if
  end subroutine settle

  !> Give the model back. Allowed at any time; the last copy frees it.
  subroutine free(self)
    class(emulator_model), intent(inout) :: self

    call emu_fortran_release(self%ticket, self%generation)
    self%ticket = c_null_ptr
    self%generation = 0
  end subroutine free

  impure elemental subroutine finalize_model(self)
    type(emulator_model), intent(inout) :: self

    call self%free()
  end subroutine finalize_model

  impure elemental subroutine assign_model(left, right)
    class(emulator_model), intent(inout) :: left
    class(emulator_model), intent(in) :: right
    type(c_ptr) :: ticket
    integer(c_int64_t) :: generation

    ticket = emu_fortran_share(right%ticket, right%generation, generation)  ! before the release: left may be right
    call left%free()
    left%ticket = ticket
    left%generation = generation
  end subroutine assign_model

  !> Evaluate the emulator on ncol columns.
  !> x and y may be any array or section: strides are taken as they are, nothing is copied.
  subroutine infer_real64(self, x, y, ncol, layout, stat, errmsg)
    class(emulator_model), intent(in) :: self
    real(real64), intent(in), target :: x(:,:)        !! inputs, physical units, see layout
    real(real64), intent(inout), target :: y(:,:)     !! outputs, physical units; columns beyond ncol are not touched
    integer, intent(in), optional :: ncol             !! columns to evaluate; default: all (x and y then agree)
    integer, intent(in), optional :: layout           !! columns_first (default) or inputs_first
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    integer(c_int64_t) :: n, xs(2), ys(2)
    integer(c_int) :: code
    integer :: c, f
    character(len=message_size) :: text

    call check_arrays(self, shape(x), shape(y), ncol, layout, c, f, n, code, text)
    if (code == ok .and. n > 0) then
      xs = 1
      ys = 1
      if (size(x, 1) > 1) xs(1) = distance(c_loc(x(1, 1)), c_loc(x(2, 1)), storage_size(x))
      if (size(x, 2) > 1) xs(2) = distance(c_loc(x(1, 1)), c_loc(x(1, 2)), storage_size(x))
      if (size(y, 1) > 1) ys(1) = distance(c_loc(y(1, 1)), c_loc(y(2, 1)), storage_size(y))
      if (size(y, 2) > 1) ys(2) = distance(c_loc(y(1, 1)), c_loc(y(1, 2)), storage_size(y))
      code = emu_infer_f64(self%c_model(), n, c_loc(x(1, 1)), xs(c), xs(f), c_loc(y(1, 1)), ys(c), ys(f), c_null_ptr, &
        0_c_size_t)
      if (code /= ok) text = infer_failed(code)
    end if
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = trim(text)
  end subroutine infer_real64

  !> The same for single precision. The emulator normalises in double precision inside.
  subroutine infer_real32(self, x, y, ncol, layout, stat, errmsg)
    class(emulator_model), intent(in) :: self
    real(real32), intent(in), target :: x(:,:)        !! inputs, physical units, see layout
    real(real32), intent(inout), target :: y(:,:)     !! outputs, physical units; columns beyond ncol are not touched
    integer, intent(in), optional :: ncol             !! columns to evaluate; default: all (x and y then agree)
    integer, intent(in), optional :: layout           !! columns_first (default) or inputs_first
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    integer(c_int64_t) :: n, xs(2), ys(2)
    integer(c_int) :: code
    integer :: c, f
    character(len=message_size) :: text

    call check_arrays(self, shape(x), shape(y), ncol, layout, c, f, n, code, text)
    if (code == ok .and. n > 0) then
      xs = 1
      ys = 1
      if (size(x, 1) > 1) xs(1) = distance(c_loc(x(1, 1)), c_loc(x(2, 1)), storage_size(x))
      if (size(x, 2) > 1) xs(2) = distance(c_loc(x(1, 1)), c_loc(x(1, 2)), storage_size(x))
      if (size(y, 1) > 1) ys(1) = distance(c_loc(y(1, 1)), c_loc(y(2, 1)), storage_size(y))
      if (size(y, 2) > 1) ys(2) = distance(c_loc(y(1, 1)), c_loc(y(1, 2)), storage_size(y))
      code = emu_infer_f32(self%c_model(), n, c_loc(x(1, 1)), xs(c), xs(f), c_loc(y(1, 1)), ys(c), ys(f), c_null_ptr, &
        0_c_size_t)
      if (code /= ok) text = infer_failed(code)
    end if
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = trim(text)
  end subroutine infer_real32

  !> Do the arrays fit the model? c and f: the dimensions of columns and of features; n: columns to evaluate.
  subroutine check_arrays(self, x_shape, y_shape, ncol, layout, c, f, n, code, text)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: x_shape(2), y_shape(2)
    integer, intent(in), optional :: ncol, layout
    integer, intent(out) :: c, f
    integer(c_int64_t), intent(out) :: n
    integer(c_int), intent(out) :: code
    character(len=*), intent(out) :: text
    integer :: order, num_x, num_y

    code = err_argument
    n = 0
    order = columns_first
    if (present(layout)) order = layout
    c = merge(2, 1, order == inputs_first)
    f = 3 - c
    num_x = self%num_inputs()
    num_y = self%num_outputs()
    text = ''
    if (.not. self%is_loaded()) then
      text = 'infer: no model is loaded'
    else if (order /= columns_first .and. order /= inputs_first) then
      write(text, '(a, i0, a)') 'infer: layout is ', order, ', expected columns_first or inputs_first'
    else if (x_shape(f) /= num_x) then
      write(text, '(3(a, i0), a)') 'infer: dimension ', f, ' of x is ', x_shape(f), ', the model has ', num_x, &
        ' inputs; pass x(columns, inputs), or layout=inputs_first with x(inputs, columns)'
    else if (y_shape(f) /= num_y) then
      write(text, '(3(a, i0), a)') 'infer: dimension ', f, ' of y is ', y_shape(f), ', the model has ', num_y, &
        ' outputs; pass y(columns, outputs), or layout=inputs_first with y(outputs, columns)'
    else if (present(ncol)) then
      if (ncol < 0 .or. ncol > min(x_shape(c), y_shape(c))) then
        write(text, '(3(a, i0))') 'infer: ncol is ', ncol, ', but x has ', x_shape(c), ' columns and y ', y_shape(c)
      else
        n = ncol
        code = ok
      end if
    else if (x_shape(c) /= y_shape(c)) then
      write(text, '(2(a, i0), a)') 'infer: x has ', x_shape(c), ' columns and y ', y_shape(c), &
        '; give both the same extent, or pass ncol'
    else
      n = x_shape(c)
      code = ok
    end if
  end subroutine check_arrays

  function infer_failed(code) result(text)
    integer(c_int), intent(in) :: code
    character(len=:), allocatable :: text

    text = 'infer: '//from_pointer(emu_status_name(code))
  end function infer_failed

  !> Elements between two addresses
  integer(c_int64_t) function distance(from, to, bits)
    type(c_ptr), intent(in) :: from, to
    integer, intent(in) :: bits  !! storage size of an element

    distance = (transfer(to, 0_c_intptr_t) - transfer(from, 0_c_intptr_t))/(bits/8)
  end function distance

  ! ---- about the model ----

  !> The C library's model; null unless loaded
  type(c_ptr) function c_model(self)
    class(emulator_model), intent(in) :: self

    c_model = emu_fortran_model(self%ticket, self%generation)
  end function c_model

  logical function is_loaded(self)
    class(emulator_model), intent(in) :: self

    is_loaded = c_associated(self%c_model())
  end function is_loaded

  !> 'avx512', 'avx2' or 'portable'; '' if no model is loaded
  function isa(self) result(text)
    class(emulator_model), intent(in) :: self
    character(len=:), allocatable :: text

    text = from_pointer(emu_isa(self%c_model()))
  end function isa

  !> Text stored in the file under key; '' if there is none
  function metadata(self, key) result(text)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: key
    character(len=:), allocatable :: text

    text = from_pointer(emu_metadata(self%c_model(), to_c(trim(key))))
  end function metadata

  integer function num_inputs(self)
    class(emulator_model), intent(in) :: self

    num_inputs = int(emu_num_inputs(self%c_model()))
  end function num_inputs

  integer function num_outputs(self)
    class(emulator_model), intent(in) :: self

    num_outputs = int(emu_num_outputs(self%c_model()))
  end function num_outputs

  integer(int64) function num_parameters(self)
    class(emulator_model), intent(in) :: self

    num_parameters = emu_num_parameters(self%c_model())
  end function num_parameters

  !> Name, unit and range of input or output i, counted from 1; '' and NaN if there is none
  function input_name(self, i) result(text)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i
    character(len=:), allocatable :: text

    text = from_pointer(emu_input_name(self%c_model(), int(i, c_int64_t) - 1))
  end function input_name

  function input_unit(self, i) result(text)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i
    character(len=:), allocatable :: text

    text = from_pointer(emu_input_unit(self%c_model(), int(i, c_int64_t) - 1))
  end function input_unit

  real(real64) function input_min(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    input_min = emu_input_min(self%c_model(), int(i, c_int64_t) - 1)
  end function input_min

  real(real64) function input_max(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    input_max = emu_input_max(self%c_model(), int(i, c_int64_t) - 1)
  end function input_max

  function output_name(self, i) result(text)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i
    character(len=:), allocatable :: text

    text = from_pointer(emu_output_name(self%c_model(), int(i, c_int64_t) - 1))
  end function output_name

  function output_unit(self, i) result(text)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i
    character(len=:), allocatable :: text

    text = from_pointer(emu_output_unit(self%c_model(), int(i, c_int64_t) - 1))
  end function output_unit

  real(real64) function output_min(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    output_min = emu_output_min(self%c_model(), int(i, c_int64_t) - 1)
  end function output_min

  real(real64) function output_max(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    output_max = emu_output_max(self%c_model(), int(i, c_int64_t) - 1)
  end function output_max

  !> Index of the input or output of that name, from 1; 0 if there is none
  integer function input_index(self, name)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: name

    input_index = int(emu_input_index(self%c_model(), to_c(trim(name)))) + 1
  end function input_index

  integer function output_index(self, name)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: name

    output_index = int(emu_output_index(self%c_model(), to_c(trim(name)))) + 1
  end function output_index

  ! ---- checks at start-up ----

  !> Does the host fill its arrays as the model reads them? Names in this order, with these units (trailing blanks
  !> do not count); errmsg names the first difference.
  subroutine require_inputs(self, names, units, stat, errmsg)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: names(:), units(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg

    integer(c_int) :: code
    character(len=message_size) :: text

    call require(self, .true., names, units, code, text)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = trim(text)
  end subroutine require_inputs

  subroutine require_outputs(self, names, units, stat, errmsg)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: names(:), units(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    integer(c_int) :: code
    character(len=message_size) :: text

    call require(self, .false., names, units, code, text)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = trim(text)
  end subroutine require_outputs

  subroutine require(self, inputs, names, units, code, text)
    class(emulator_model), intent(in) :: self
    logical, intent(in) :: inputs
    character(len=*), intent(in) :: names(:), units(:)
    integer(c_int), intent(out) :: code
    character(len=*), intent(out) :: text
    character(kind=c_char), target :: c_names(len(names) + 1, size(names)), c_units(len(units) + 1, size(units))
    type(c_ptr) :: name_pointers(size(names)), unit_pointers(size(units))
    character(kind=c_char) :: c_text(message_size)
    integer(c_int64_t) :: n

    code = err_argument
    if (.not. self%is_loaded()) then
      text = 'require: no model is loaded'
      return
    else if (size(names) /= size(units)) then
      text = 'require: as many names as units are needed'
      return
    end if
    call point_at(names, c_names, name_pointers)
    call point_at(units, c_units, unit_pointers)
    n = size(names, kind=c_int64_t)
    if (inputs) then
      code = emu_require_inputs(self%c_model(), n, name_pointers, unit_pointers, c_text, int(message_size, c_size_t))
    else
      code = emu_require_outputs(self%c_model(), n, name_pointers, unit_pointers, c_text, int(message_size, c_size_t))
    end if
    text = from_c(c_text)
  end subroutine require

  !> Evaluate the check samples stored in the file and compare with the results stored beside them.
  subroutine self_check(self, max_difference, stat, errmsg)
    class(emulator_model), intent(in) :: self
    real(real64), intent(out), optional :: max_difference  !! in units of the output's training range; NaN without any
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(kind=c_char) :: text(message_size)
    real(c_double) :: difference
    integer(c_int) :: code

    code = emu_self_check(self%c_model(), difference, text, int(message_size, c_size_t))
    if (present(max_difference)) max_difference = difference
    call report(self, code, from_c(text), stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine self_check

  ! ---- the kept error ----

  !> 0, or the first error of a call without stat. A model that is not loaded is an error by itself.
  integer function status(self)
    class(emulator_model), intent(in) :: self

    status = emu_fortran_status(self%ticket, self%generation)
    if (status == ok .and. .not. self%is_loaded()) status = err_argument
  end function status

  !> What status() means; '' if it is 0
  function message(self) result(text)
    class(emulator_model), intent(in) :: self
    character(len=:), allocatable :: text

    text = from_pointer(emu_fortran_message(self%ticket, self%generation))
    if (len(text) == 0 .and. .not. self%is_loaded()) text = 'no model is loaded'
  end function message

  subroutine clear_status(self)
    class(emulator_model), intent(in) :: self

    call emu_fortran_clear(self%ticket, self%generation)
  end subroutine clear_status

  !> Hand an outcome to the caller, or keep it in the model if the caller does not ask. errmsg is set by the callers
  !> of this procedure: gfortran 12 loses the length of a deferred-length character that is handed on as an
  !> optional argument.
  subroutine report(self, code, text, stat)
    class(emulator_model), intent(in) :: self
    integer(c_int), intent(in) :: code
    character(len=*), intent(in) :: text
    integer, intent(out), optional :: stat

    if (present(stat)) then
      stat = code
    else if (code /= ok) then
      call emu_fortran_record(self%ticket, self%generation, code, to_c(trim(text)))
    end if
  end subroutine report

end module libemulator
