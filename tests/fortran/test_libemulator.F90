!> Tests of module libemulator. Counted: the program fails if a check fails or if their number is not the expected one.
!> usage: test_libemulator MODEL.onnx  (written by make_model: 5 inputs, 3 outputs, named, with check samples)
program test_libemulator
  use, intrinsic :: ieee_arithmetic, only: ieee_is_nan, ieee_quiet_nan, ieee_value
  use, intrinsic :: iso_fortran_env, only: error_unit, int8, int64, real32, real64
  use libemulator, only: columns_first, emulator_model, inputs_first
  implicit none

  integer, parameter :: num_inputs = 5, num_outputs = 3, pcols = 60
  real(real64), parameter :: untouched = -1234.5_real64
  integer :: checks = 0, failures = 0
  character(len=:), allocatable :: path
  integer :: length

  call get_command_argument(1, length=length)
  allocate(character(len=length) :: path)
  call get_command_argument(1, path)

  call test_inquiries()
  call test_layouts()
  call test_sections()
  call test_single_precision()
  call test_argument_errors()
  call test_kept_error()
  call test_load_errors()
  call test_copies()
  call test_bytes()
  call test_openmp()

  print '(i0, a, i0, a)', checks, ' checks, ', failures, ' failed'
  if (failures > 0 .or. checks /= 84) then
    if (checks /= 84) write(error_unit, '(a)') 'expected 84 checks'
    stop 1
  end if

contains

  subroutine check(condition, what)
    logical, intent(in) :: condition
    character(len=*), intent(in) :: what

    checks = checks + 1
    if (condition) return
    failures = failures + 1
    write(error_unit, '(2a)') 'failed: ', what
  end subroutine check

  subroutine open_model(model)
    type(emulator_model), intent(inout) :: model
    integer :: stat
    character(len=:), allocatable :: errmsg

    call model%load(path, stat, errmsg)
    if (stat == 0) return
    write(error_unit, '(a)') errmsg
    stop 1
  end subroutine open_model

  !> Inputs within the training ranges, (pcols, num_inputs)
  subroutine fill(model, x)
    type(emulator_model), intent(in) :: model
    real(real64), intent(out) :: x(:,:)
    integer :: i, c

    do i = 1, size(x, 2)
      do c = 1, size(x, 1)
        x(c, i) = model%input_min(i) + (model%input_max(i) - model%input_min(i))*modulo(0.6180339887_real64*c*i, 1._real64)
      end do
    end do
  end subroutine fill

  subroutine test_inquiries()
    type(emulator_model) :: model
    character(len=:), allocatable :: errmsg
    character(len=8) :: names(num_inputs), units(num_inputs)
    real(real64) :: difference
    integer :: stat, i

    call check(.not. model%is_loaded(), 'a new model is not loaded')
    call check(model%num_inputs() == 0 .and. model%isa() == '', 'a new model has nothing')
    call open_model(model)
    call check(model%is_loaded(), 'is_loaded')
    call check(model%num_inputs() == num_inputs .and. model%num_outputs() == num_outputs, 'sizes')
    call check(model%num_parameters() == int(5*18 + 18 + 18*7 + 7 + 7*3 + 3, int64), 'num_parameters')
    call check(model%input_name(1) == 'in_0' .and. model%input_name(5) == 'in_4', 'input_name')
    call check(model%input_name(0) == '' .and. model%input_name(6) == '', 'no such input')
    call check(model%output_name(3) == 'out_2' .and. model%output_unit(1) == '', 'output_name, output_unit')
    call check(model%input_unit(2) == '', 'input_unit')
    call check(model%input_min(1) < model%input_max(1), 'range')
    call check(ieee_is_nan(model%output_min(1)) .and. ieee_is_nan(model%output_max(9)), 'unknown range')
    call check(model%input_index('in_3') == 4 .and. model%input_index('in_3  ') == 4, 'input_index')
    call check(model%input_index('in_9') == 0 .and. model%output_index('out_1') == 2, 'absent input')
    call check(model%metadata('libemulator.schema') == '1' .and. model%metadata('nothing') == '', 'metadata')
    call check(any(model%isa() == [character(len=8) :: 'avx512', 'avx2', 'portable']), 'isa')
    call model%self_check(difference, stat, errmsg)
    call check(stat == 0 .and. difference > 0 .and. difference < 1.e-3_real64, 'self_check')
    call check(.not. allocated(errmsg), 'no message on success')
    do i = 1, num_inputs
      names(i) = model%input_name(i)
    end do
    units = ''
    call model%require_inputs(names, units, stat, errmsg)
    call check(stat == 0, 'require_inputs')
    units(3) = 'K'
    call model%require_inputs(names, units, stat, errmsg)
    call check(stat /= 0 .and. index(errmsg, 'in_2') > 0 .and. index(errmsg, "'K'") > 0, 'wrong unit: '//errmsg)
    call model%require_inputs(names(1:4), units(1:4), stat, errmsg)
    call check(stat /= 0, 'one name too few')
    call model%require_inputs(names(1:4), units, stat, errmsg)
    call check(stat /= 0, 'more units than names')
    call model%require_outputs(['out_0', 'out_1', 'out_3'], ['', '', ''], stat, errmsg)
    call check(stat /= 0 .and. index(errmsg, 'out_3') > 0 .and. index(errmsg, 'out_2') > 0, errmsg)
    call check(model%status() == 0 .and. model%message() == '', 'errors that were asked for are not kept')
    call model%free()
    call check(.not. model%is_loaded(), 'free')
    call model%free()
  end subroutine test_inquiries

  subroutine test_layouts()
    type(emulator_model) :: model
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs), one(1, num_outputs)
    real(real64) :: xt(num_inputs, pcols), yt(num_outputs, pcols)
    integer :: stat, ncol, c

    call open_model(model)
    call fill(model, x)
    xt = transpose(x)
    y = untouched
    call model%infer(x, y, stat=stat)
    call check(stat == 0 .and. all(y(:, 1) /= untouched), 'columns first')
    yt = untouched
    call model%infer(xt, yt, layout=inputs_first, stat=stat)
    call check(stat == 0 .and. all(yt == transpose(y)), 'inputs first: the same bits')
    do c = 1, pcols
      call model%infer(x(c:c, :), one, stat=stat)
      if (stat /= 0 .or. any(one(1, :) /= y(c, :))) exit
    end do
    call check(c > pcols, 'one column at a time: the same bits')
    do ncol = 0, 17
      yt = untouched
      call model%infer(xt, yt, ncol=ncol, layout=inputs_first, stat=stat)
      call check(stat == 0 .and. all(yt(:, :ncol) == transpose(y(:ncol, :))) .and. all(yt(:, ncol + 1:) == untouched), &
        'columns beyond ncol are not touched')
    end do
  end subroutine test_layouts

  subroutine test_sections()
    type(emulator_model) :: model
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs)
    real(real64) :: wide(2*pcols + 3, 2*num_inputs + 1), result(3*pcols, 0:2*num_outputs), level(4, pcols, num_inputs)
    real(real64), allocatable :: allocated_y(:,:)
    integer :: stat

    call open_model(model)
    call fill(model, x)
    call model%infer(x, y)
    wide = ieee_value(1._real64, ieee_quiet_nan)
    wide(2:2*pcols:2, 2::2) = x
    result = untouched
    call model%infer(wide(2:2*pcols:2, 2::2), result(1::3, 2::2), stat=stat)
    call check(stat == 0 .and. all(result(1::3, 2::2) == y), 'every other element of both')
    call check(all(result(2::3, :) == untouched) .and. all(result(:, 1::2) == untouched) .and. &
      all(result(:, 0) == untouched), 'nothing beside the section is written')
    result = untouched
    call model%infer(x(pcols:1:-1, :), result(pcols:1:-1, 1:num_outputs), stat=stat)
    call check(stat == 0 .and. all(result(1:pcols, 1:num_outputs) == y), 'backwards')
    level = 0
    level(3, :, :) = x
    allocate(allocated_y(pcols, num_outputs))
    allocated_y = untouched
    call model%infer(level(3, :, :), allocated_y, ncol=20, stat=stat)
    call check(stat == 0 .and. all(allocated_y(1:20, :) == y(1:20, :)) .and. all(allocated_y(21:, :) == untouched), &
      'one level of a three-dimensional array')
    call check(model%status() == 0, 'no kept error')
  end subroutine test_sections

  subroutine test_single_precision()
    type(emulator_model) :: model
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs)
    real(real32) :: x32(pcols, num_inputs), y32(pcols, num_outputs), y32t(num_outputs, pcols)
    integer :: stat

    call open_model(model)
    call fill(model, x)
    x32 = real(x, real32)
    call model%infer(real(x32, real64), y)
    call model%infer(x32, y32, stat=stat)
    call check(stat == 0 .and. all(y32 == real(y, real32)), 'real32: the real64 result, rounded')
    call model%infer(transpose(x32), y32t, layout=inputs_first, stat=stat)
    call check(stat == 0 .and. all(y32t == transpose(y32)), 'real32, inputs first')
  end subroutine test_single_precision

  subroutine test_argument_errors()
    type(emulator_model) :: model, empty
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs)
    character(len=:), allocatable :: errmsg
    integer :: stat

    call open_model(model)
    call fill(model, x)
    y = untouched
    call model%infer(x(:, 1:4), y, stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, '4') > 0 .and. index(errmsg, '5 inputs') > 0, 'too few inputs')
    call model%infer(x, y(:, 1:2), stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, '3 outputs') > 0, 'too few outputs')
    call model%infer(x, y(1:9, :), stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, 'pass ncol') > 0, 'different extents')
    call model%infer(x, y(1:9, :), ncol=10, stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, 'ncol is 10') > 0, 'ncol too large')
    call model%infer(x, y, ncol=-1, stat=stat, errmsg=errmsg)
    call check(stat /= 0, 'ncol negative')
    call model%infer(x, y, layout=7, stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, 'layout is 7') > 0, 'no such layout')
    call model%infer(x, y, layout=inputs_first, stat=stat)
    call check(stat /= 0, 'the wrong layout')
    call empty%infer(x, y, stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. index(errmsg, 'no model') > 0, 'no model')
    call check(all(y == untouched), 'y is not touched by a call that fails')
    call model%infer(x, y, layout=columns_first, stat=stat)
    call check(stat == 0, 'and works afterwards')
  end subroutine test_argument_errors

  subroutine test_kept_error()
    type(emulator_model) :: model, empty
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs)
    character(len=:), allocatable :: errmsg

    call open_model(model)
    call fill(model, x)
    call model%infer(x, y, ncol=1000)
    call check(model%status() /= 0 .and. index(model%message(), '1000') > 0, 'an error that nobody asked for is kept')
    call model%infer(x, y, layout=9)
    call check(index(model%message(), '1000') > 0, 'the first one stays')
    call model%infer(x, y)
    call check(index(model%message(), '1000') > 0, 'a success does not clear it')
    call model%clear_status()
    call check(model%status() == 0 .and. model%message() == '', 'clear_status')
    call model%infer(x, y, layout=9, errmsg=errmsg)
    call check(model%status() /= 0 .and. index(errmsg, 'layout') > 0, 'errmsg without stat: kept as well')
    call empty%infer(x, y)
    call check(empty%status() /= 0 .and. index(empty%message(), 'no model') > 0, 'a model that was never loaded')
  end subroutine test_kept_error

  subroutine test_load_errors()
    type(emulator_model) :: model
    character(len=:), allocatable :: errmsg
    integer(int8) :: nothing(0), nonsense(20)
    integer :: stat

    call model%load('/nowhere/model.onnx', stat, errmsg)
    call check(stat == 2 .and. index(errmsg, '/nowhere/model.onnx') > 0 .and. .not. model%is_loaded(), errmsg)
    call model%load('/nowhere/model.onnx')
    call check(model%status() == 2 .and. index(model%message(), 'cannot open') > 0, 'load: kept error')
    call model%load_bytes(nothing, stat, errmsg)
    call check(stat /= 0, 'no bytes')
    nonsense = 77_int8
    call model%load_bytes(nonsense, stat, errmsg)
    call check(stat == 3, errmsg)
    call open_model(model)
    call check(model%status() == 0, 'a good load clears what was kept')
    call model%load('/nowhere/model.onnx', stat)
    call check(.not. model%is_loaded(), 'a failed load leaves no model')
  end subroutine test_load_errors

  !> Copies share the model; each may go first. The leak checker and valgrind watch.
  subroutine test_copies()
    type :: component
      type(emulator_model) :: model
    end type component
    type(emulator_model), allocatable :: a, b
    type(emulator_model) :: list(3)
    type(component) :: inner, outer
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs), z(pcols, num_outputs)
    integer :: i

    allocate(a, b)
    call open_model(a)
    call fill(a, x)
    call a%infer(x, y)
    b = a
    deallocate(a)
    call b%infer(x, z)
    call check(b%is_loaded() .and. all(z == y), 'the copy outlives the original')
    b = b
    call check(b%is_loaded(), 'assignment to itself')
    do i = 1, 3
      list(i) = b
    end do
    call b%free()
    call list(2)%infer(x, z)
    call check(all(z == y), 'an array of copies')
    inner%model = list(1)
    list(1) = b
    call check(.not. list(1)%is_loaded(), 'a copy of nothing is nothing')
    outer = inner
    call inner%model%free()
    z = untouched
    call outer%model%infer(x, z)
    call check(all(z == y), 'as a component')
    call list(3)%infer(x, z, ncol=-5)
    call check(outer%model%status() /= 0, 'copies share the kept error')
    deallocate(b)
  end subroutine test_copies

  subroutine test_bytes()
    type(emulator_model) :: model, other
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs), z(pcols, num_outputs)
    integer(int8), allocatable :: bytes(:)
    integer :: unit, stat
    integer(int64) :: size_in_file

    open(newunit=unit, file=path, access='stream', form='unformatted', status='old', action='read')
    inquire(unit=unit, size=size_in_file)
    allocate(bytes(size_in_file))
    read(unit) bytes
    close(unit)
    call model%load_bytes(bytes, stat)
    call check(stat == 0, 'load_bytes')
    bytes = 0_int8
    call open_model(other)
    call fill(other, x)
    call other%infer(x, y)
    call model%infer(x, z)
    call check(all(z == y), 'the bytes are not needed after load_bytes')
  end subroutine test_bytes

  subroutine test_openmp()
    integer, parameter :: chunks = 64
    type(emulator_model) :: model
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs)
    real(real64), allocatable :: all_x(:,:,:), all_y(:,:,:)
    integer :: chunk, ncol, wrong, stat

    call open_model(model)
    call fill(model, x)
    call model%infer(x, y)
    allocate(all_x(pcols, num_inputs, chunks), all_y(pcols, num_outputs, chunks))
    all_y = untouched
    do chunk = 1, chunks
      all_x(:, :, chunk) = x
    end do
    wrong = 0
    !$omp parallel do schedule(static, 1) num_threads(4) private(ncol, stat) reduction(+:wrong)
    do chunk = 1, chunks
      ncol = modulo(7*chunk, pcols) + 1
      call model%infer(all_x(:, :, chunk), all_y(:, :, chunk), ncol=ncol, stat=stat)
      if (stat /= 0) wrong = wrong + 1
      call model%infer(all_x(:, :, chunk), all_y(:, :, chunk), ncol=pcols + chunk)  ! an error on every thread
    end do
    !$omp end parallel do
    do chunk = 1, chunks
      ncol = modulo(7*chunk, pcols) + 1
      if (any(all_y(:ncol, :, chunk) /= y(:ncol, :)) .or. any(all_y(ncol + 1:, :, chunk) /= untouched)) wrong = wrong + 1
    end do
    call check(wrong == 0, 'chunks on threads: the same bits')
    call check(model%status() /= 0 .and. index(model%message(), 'ncol is') > 0, 'one error of the many is kept, whole')
  end subroutine test_openmp

end program test_libemulator
