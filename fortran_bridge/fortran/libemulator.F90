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
!> Guards. infer takes `guard`, an emulator_guard of the caller's own, which counts and flags the inputs outside the
!> ranges of the training data, and moves them into the ranges if guard%clamp is set: see libemulator_guard.F90.
!>
!> Threads. `infer` and every inquiry take the model as intent(in): one model may be shared by all OpenMP threads, each
!> with arrays (and a guard) of its own. load, free and assignment to a model must not run while another thread uses
!> that same variable. Keep the model shared: a private or firstprivate copy of it is not a copy that Fortran knows of.
!>
!> `do concurrent` and pure procedures call `infer_pure`: the same, but stat is required (a pure procedure cannot keep an
!> error in a model that it may only read), there is no errmsg, and x and y are contiguous: of another section, the
!> compiler makes a copy and copies y back. is_loaded, the sizes and the ranges are pure too.
!>
!> Copies. `a = b` shares one loaded model and one kept error; it is freed with the last copy. (gfortran 12 finalizes
!> the temporary through which it copies a type that *contains* a model: such a copy may lose its model, and say so
!> by is_loaded(), when the procedure that made it ends. Assign the model itself.)
!>
!> What infer promises (same bits for any batch, layout, thread; NaN; floating-point traps) is in libemulator.h.
module libemulator
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_double, c_int, c_int32_t, c_int64_t, c_loc, c_null_ptr, &
    c_ptr, c_size_t, c_sizeof
  use, intrinsic :: iso_fortran_env, only: int8, int64, real32, real64
  use libemulator_c
  use libemulator_guard, only: emulator_guard, guard_view, no_guard, prepare_guard, take_counters
  implicit none
  private

  public :: emulator_model, emulator_guard
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
    generic :: infer_pure => infer_pure_real64, infer_pure_real32
    procedure :: is_loaded, backend, isa, metadata
    procedure :: precision => layer_precision
    procedure :: num_inputs, num_outputs, num_parameters
    procedure :: input_name, input_unit, input_min, input_max, input_index
    procedure :: output_name, output_unit, output_min, output_max, output_index
    procedure :: require_inputs, require_outputs, self_check
    procedure :: status, message, clear_status
    generic :: assignment(=) => assign_model
    procedure, private :: infer_real64, infer_real32, infer_pure_real64, infer_pure_real32, assign_model, c_model
    final :: finalize_model
  end type emulator_model

contains

  !> Read a model file. A model that was loaded before is given back first, also when the new one cannot be loaded.
  !> The options are those of emu_options in libemulator.h, where their defaults are.
  subroutine load(self, path, stat, errmsg, backend, isa, precision, num_threads, library)
    class(emulator_model), intent(inout) :: self
    character(len=*), intent(in) :: path                      !! trailing blanks do not count
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(len=*), intent(in), optional :: backend         !! 'native', 'onnxruntime' or 'libtorch'; '' as if absent
    character(len=*), intent(in), optional :: isa             !! native: 'avx512', ...
    integer, intent(in), optional :: precision                !! native: 32 or 64 bits for the layers
    integer, intent(in), optional :: num_threads              !! onnxruntime, libtorch: threads of one call
    character(len=*), intent(in), optional :: library         !! onnxruntime, libtorch: path of their shared library
    character(kind=c_char) :: text(message_size)
    integer(c_int) :: code

    call load_with(self, code, text, path, backend=backend, isa=isa, precision=precision, num_threads=num_threads, &
      library=library)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine load

  !> The same from the bytes of the file: one rank reads and broadcasts them, every rank calls this.
  subroutine load_bytes(self, bytes, stat, errmsg, backend, isa, precision, num_threads, library)
    class(emulator_model), intent(inout) :: self
    integer(int8), intent(in), contiguous, target :: bytes(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    character(len=*), intent(in), optional :: backend, isa, library
    integer, intent(in), optional :: precision, num_threads
    character(kind=c_char) :: text(message_size)
    integer(c_int) :: code

    call load_with(self, code, text, bytes=bytes, backend=backend, isa=isa, precision=precision, &
      num_threads=num_threads, library=library)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine load_bytes

  !> From the path or from the bytes
  subroutine load_with(self, code, text, path, bytes, backend, isa, precision, num_threads, library)
    class(emulator_model), intent(inout) :: self
    integer(c_int), intent(out) :: code
    character(kind=c_char), intent(inout) :: text(message_size)
    character(len=*), intent(in), optional :: path, backend, isa, library
    integer(int8), intent(in), contiguous, target, optional :: bytes(:)
    integer, intent(in), optional :: precision, num_threads
    character(kind=c_char), allocatable, target :: c_backend(:), c_isa(:), c_library(:)
    type(emu_options) :: options
    type(c_ptr) :: model, start

    call optional_to_c(backend, c_backend)
    call optional_to_c(isa, c_isa)
    call optional_to_c(library, c_library)
    options = emu_options(0, c_loc(c_backend), c_loc(c_isa), c_loc(c_library), 0, 0)  ! '' and 0 are the defaults
    options%struct_size = c_sizeof(options)
    if (present(precision)) options%precision = int(precision, c_int32_t)
    if (present(num_threads)) options%num_threads = int(num_threads, c_int32_t)
    if (present(path)) then
      code = emu_load_with(to_c(trim(path)), options, model, text, int(message_size, c_size_t))
    else
      start = c_null_ptr
      if (size(bytes) > 0) start = c_loc(bytes)
      code = emu_load_bytes_with(start, size(bytes, kind=c_size_t), options, model, text, int(message_size, c_size_t))
    end if
    call settle(self, code, model)
  end subroutine load_with

  subroutine optional_to_c(text, c_text)
    character(len=*), intent(in), optional :: text
    character(kind=c_char), allocatable, intent(out) :: c_text(:)

    if (present(text)) then
      allocate(c_text(len_trim(text) + 1))
      c_text = to_c(trim(text))
    else
      allocate(c_text(1))
      c_text = to_c('')
    end if
  end subroutine optional_to_c

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
  subroutine infer_real64(self, x, y, ncol, layout, stat, errmsg, guard)
    class(emulator_model), intent(in) :: self
    real(real64), intent(in), target :: x(:,:)        !! inputs, physical units, see layout
    real(real64), intent(inout), target :: y(:,:)     !! outputs, physical units; columns beyond ncol are not touched
    integer, intent(in), optional :: ncol             !! columns to evaluate; default: all (x and y then agree)
    integer, intent(in), optional :: layout           !! columns_first (default) or inputs_first
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    type(emulator_guard), intent(inout), optional, target :: guard  !! the caller's own: nobody else may use it meanwhile
    character(kind=c_char) :: text(message_size)
    type(emu_call) :: arrays
    type(emu_guard) :: view
    integer(c_int) :: code

    call describe(shape(x), shape(y), storage_size(x)/8, ncol, layout, arrays)
    if (size(x) > 0 .and. size(y) > 0) then
      arrays%x = [c_loc(x(1, 1)), c_loc(x(min(2, size(x, 1)), 1)), c_loc(x(1, min(2, size(x, 2))))]
      arrays%y = [c_loc(y(1, 1)), c_loc(y(min(2, size(y, 1)), 1)), c_loc(y(1, min(2, size(y, 2))))]
    end if
    call start(self, arrays, guard, view, code, text)
    if (code == ok) &
      call emu_fortran_infer(self%ticket, self%generation, arrays, view, code, text, int(message_size, c_size_t))
    if (code == ok .and. present(guard)) call take_counters(guard, view)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine infer_real64

  !> The same for single precision. The emulator normalises in double precision inside.
  subroutine infer_real32(self, x, y, ncol, layout, stat, errmsg, guard)
    class(emulator_model), intent(in) :: self
    real(real32), intent(in), target :: x(:,:)        !! inputs, physical units, see layout
    real(real32), intent(inout), target :: y(:,:)     !! outputs, physical units; columns beyond ncol are not touched
    integer, intent(in), optional :: ncol             !! columns to evaluate; default: all (x and y then agree)
    integer, intent(in), optional :: layout           !! columns_first (default) or inputs_first
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    type(emulator_guard), intent(inout), optional, target :: guard  !! the caller's own: nobody else may use it meanwhile
    character(kind=c_char) :: text(message_size)
    type(emu_call) :: arrays
    type(emu_guard) :: view
    integer(c_int) :: code

    call describe(shape(x), shape(y), storage_size(x)/8, ncol, layout, arrays)
    if (size(x) > 0 .and. size(y) > 0) then
      arrays%x = [c_loc(x(1, 1)), c_loc(x(min(2, size(x, 1)), 1)), c_loc(x(1, min(2, size(x, 2))))]
      arrays%y = [c_loc(y(1, 1)), c_loc(y(min(2, size(y, 1)), 1)), c_loc(y(1, min(2, size(y, 2))))]
    end if
    call start(self, arrays, guard, view, code, text)
    if (code == ok) &
      call emu_fortran_infer(self%ticket, self%generation, arrays, view, code, text, int(message_size, c_size_t))
    if (code == ok .and. present(guard)) call take_counters(guard, view)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine infer_real32

  !> infer for `do concurrent` and pure procedures, see the head of this file. Arguments as above; stat comes third.
  pure subroutine infer_pure_real64(self, x, y, stat, ncol, layout, guard)
    class(emulator_model), intent(in) :: self
    real(real64), intent(in), contiguous :: x(:,:)
    real(real64), intent(inout), contiguous :: y(:,:)
    integer, intent(out) :: stat
    integer, intent(in), optional :: ncol, layout
    type(emulator_guard), intent(inout), optional, target :: guard
    character(kind=c_char) :: text(message_size)
    type(emu_call) :: arrays
    type(emu_guard) :: view
    integer(c_int) :: code

    call describe(shape(x), shape(y), storage_size(x)/8, ncol, layout, arrays)
    call start(self, arrays, guard, view, code, text)
    if (code == ok) call emu_fortran_infer_f64(self%ticket, self%generation, arrays, view, x, y, code, text, &
      int(message_size, c_size_t))
    if (code == ok .and. present(guard)) call take_counters(guard, view)
    stat = code
  end subroutine infer_pure_real64

  pure subroutine infer_pure_real32(self, x, y, stat, ncol, layout, guard)
    class(emulator_model), intent(in) :: self
    real(real32), intent(in), contiguous :: x(:,:)
    real(real32), intent(inout), contiguous :: y(:,:)
    integer, intent(out) :: stat
    integer, intent(in), optional :: ncol, layout
    type(emulator_guard), intent(inout), optional, target :: guard
    character(kind=c_char) :: text(message_size)
    type(emu_call) :: arrays
    type(emu_guard) :: view
    integer(c_int) :: code

    call describe(shape(x), shape(y), storage_size(x)/8, ncol, layout, arrays)
    call start(self, arrays, guard, view, code, text)
    if (code == ok) call emu_fortran_infer_f32(self%ticket, self%generation, arrays, view, x, y, code, text, &
      int(message_size, c_size_t))
    if (code == ok .and. present(guard)) call take_counters(guard, view)
    stat = code
  end subroutine infer_pure_real32

  !> The arguments of infer but for the addresses
  pure subroutine describe(x_shape, y_shape, value_size, ncol, layout, arrays)
    integer, intent(in) :: x_shape(2), y_shape(2), value_size
    integer, intent(in), optional :: ncol, layout
    type(emu_call), intent(out) :: arrays

    arrays%x_shape = x_shape
    arrays%y_shape = y_shape
    arrays%num_inputs = 0
    arrays%all_columns = merge(0_c_int32_t, 1_c_int32_t, present(ncol))
    arrays%ncol = 0
    if (present(ncol)) arrays%ncol = ncol
    arrays%layout = columns_first
    if (present(layout)) arrays%layout = int(layout, c_int32_t)
    arrays%value_size = int(value_size, c_int32_t)
    arrays%unused = 0
    arrays%x = c_null_ptr
    arrays%y = c_null_ptr
  end subroutine describe

  !> Do the arrays and the guard fit the model? Sets arrays%ncol, and view to what C takes for the guard.
  pure subroutine start(self, arrays, guard, view, code, text)
    class(emulator_model), intent(in) :: self
    type(emu_call), intent(inout) :: arrays
    type(emulator_guard), intent(inout), optional, target :: guard
    type(emu_guard), intent(out) :: view
    integer(c_int), intent(out) :: code
    character(kind=c_char), intent(inout) :: text(message_size)
    logical :: good

    view = no_guard()
    call emu_fortran_check(self%ticket, self%generation, arrays, code, text, int(message_size, c_size_t))
    if (code /= ok .or. .not. present(guard)) return
    call prepare_guard(guard, arrays%num_inputs, arrays%ncol, good)
    if (good) then
      call guard_view(guard, view)
    else
      code = err_argument
      call put(text, 'infer: the guard belongs to a model with another number of inputs, or there is no memory for it; '// &
        'call guard%reset()')
    end if
  end subroutine start

  ! ---- about the model ----

  !> The C library's model; null unless loaded
  pure type(c_ptr) function c_model(self)
    class(emulator_model), intent(in) :: self

    c_model = emu_fortran_model(self%ticket, self%generation)
  end function c_model

  pure logical function is_loaded(self)
    class(emulator_model), intent(in) :: self

    is_loaded = c_associated(self%c_model())
  end function is_loaded

  !> 'native', 'onnxruntime' or 'libtorch'; '' if no model is loaded
  function backend(self) result(text)
    class(emulator_model), intent(in) :: self
    character(len=:), allocatable :: text

    text = from_pointer(emu_backend(self%c_model()))
  end function backend

  !> Bits of the layers' arithmetic, 32 or 64; 0 if unknown
  pure integer function layer_precision(self)
    class(emulator_model), intent(in) :: self

    layer_precision = emu_precision(self%c_model())
  end function layer_precision

  !> 'avx512', 'avx2' or 'portable'; '' for other backends, and if no model is loaded
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

  pure integer function num_inputs(self)
    class(emulator_model), intent(in) :: self

    num_inputs = int(emu_num_inputs(self%c_model()))
  end function num_inputs

  pure integer function num_outputs(self)
    class(emulator_model), intent(in) :: self

    num_outputs = int(emu_num_outputs(self%c_model()))
  end function num_outputs

  pure integer(int64) function num_parameters(self)
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

  pure real(real64) function input_min(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    input_min = emu_input_min(self%c_model(), int(i, c_int64_t) - 1)
  end function input_min

  pure real(real64) function input_max(self, i)
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

  pure real(real64) function output_min(self, i)
    class(emulator_model), intent(in) :: self
    integer, intent(in) :: i

    output_min = emu_output_min(self%c_model(), int(i, c_int64_t) - 1)
  end function output_min

  pure real(real64) function output_max(self, i)
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
    character(kind=c_char) :: text(message_size)

    call require(self, .true., names, units, code, text)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine require_inputs

  subroutine require_outputs(self, names, units, stat, errmsg)
    class(emulator_model), intent(in) :: self
    character(len=*), intent(in) :: names(:), units(:)
    integer, intent(out), optional :: stat
    character(len=:), allocatable, intent(inout), optional :: errmsg
    integer(c_int) :: code
    character(kind=c_char) :: text(message_size)

    call require(self, .false., names, units, code, text)
    call report(self, code, text, stat)
    if (code /= ok .and. present(errmsg)) errmsg = from_c(text)
  end subroutine require_outputs

  subroutine require(self, inputs, names, units, code, text)
    class(emulator_model), intent(in) :: self
    logical, intent(in) :: inputs
    character(len=*), intent(in) :: names(:), units(:)
    integer(c_int), intent(out) :: code
    character(kind=c_char), intent(inout) :: text(message_size)
    character(kind=c_char), target :: c_names(len(names) + 1, size(names)), c_units(len(units) + 1, size(units))
    type(c_ptr) :: name_pointers(size(names)), unit_pointers(size(units))
    integer(c_int64_t) :: n

    code = err_argument
    if (.not. self%is_loaded()) then
      call put(text, 'require: no model is loaded')
      return
    else if (size(names) /= size(units)) then
      call put(text, 'require: as many names as units are needed')
      return
    end if
    call point_at(names, c_names, name_pointers)
    call point_at(units, c_units, unit_pointers)
    n = size(names, kind=c_int64_t)
    if (inputs) then
      code = emu_require_inputs(self%c_model(), n, name_pointers, unit_pointers, text, int(message_size, c_size_t))
    else
      code = emu_require_outputs(self%c_model(), n, name_pointers, unit_pointers, text, int(message_size, c_size_t))
    end if
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
    call report(self, code, text, stat)
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
    character(kind=c_char), intent(in) :: text(message_size)
    integer, intent(out), optional :: stat

    if (present(stat)) then
      stat = code
    else if (code /= ok) then
      call emu_fortran_record(self%ticket, self%generation, code, text)
    end if
  end subroutine report

  pure subroutine put(text, message)
    character(kind=c_char), intent(inout) :: text(message_size)
    character(len=*), intent(in) :: message

    text(:len(message) + 1) = to_c(message)
  end subroutine put

end module libemulator
