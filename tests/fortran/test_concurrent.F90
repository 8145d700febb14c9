!> Tests of module libemulator: guards, options, OpenMP and do concurrent. Counted, as test_libemulator is.
!> usage: test_concurrent MODEL.onnx  (written by make_model: 5 inputs with ranges, 3 outputs)
program test_concurrent
  use, intrinsic :: ieee_arithmetic, only: ieee_quiet_nan, ieee_value
  use, intrinsic :: iso_fortran_env, only: error_unit, int8, int64, real32, real64
  use libemulator, only: emulator_guard, emulator_model, inputs_first
  implicit none

  integer, parameter :: num_inputs = 5, num_outputs = 3, pcols = 60, chunks = 64, expected_checks = 55
  real(real64), parameter :: untouched = -1234.5_real64
  integer :: checks = 0, failures = 0
  character(len=:), allocatable :: path
  integer :: length
  type(emulator_model) :: shared_model
  real(real64) :: x_inside(pcols, num_inputs), x_outside(pcols, num_inputs), x_clamped(pcols, num_inputs)
  real(real64) :: y_inside(pcols, num_outputs), y_clamped(pcols, num_outputs)
  integer :: outside(pcols)

  call get_command_argument(1, length=length)
  allocate(character(len=length) :: path)
  call get_command_argument(1, path)
  call shared_model%load(path)
  if (shared_model%status() /= 0) then
    write(error_unit, '(a)') shared_model%message()
    stop 1
  end if
  call make_columns()

  call test_guard()
  call test_guard_errors()
  call test_add()
  call test_pure_is_infer()
  call test_do_concurrent()
  call test_openmp()
  call test_single_precision_sections()
  call test_options()

  print '(i0, a, i0, a)', checks, ' checks, ', failures, ' failed'
  if (checks /= expected_checks) write(error_unit, '(a, i0, a)') 'expected ', expected_checks, ' checks'
  if (failures > 0 .or. checks /= expected_checks) stop 1

contains

  subroutine check(condition, what)
    logical, intent(in) :: condition
    character(len=*), intent(in) :: what

    checks = checks + 1
    if (condition) return
    failures = failures + 1
    write(error_unit, '(2a)') 'failed: ', what
  end subroutine check

  !> Columns within the ranges, and the same with columns 5 (two inputs), 20 and 60 outside
  subroutine make_columns()
    integer :: i, c

    do i = 1, num_inputs
      do c = 1, pcols
        x_inside(c, i) = shared_model%input_min(i) + (shared_model%input_max(i) - shared_model%input_min(i))* &
          (0.01_real64 + 0.98_real64*modulo(0.6180339887_real64*c*i, 1._real64))
      end do
    end do
    x_outside = x_inside
    x_clamped = x_inside
    outside = 0
    call put_outside(5, 1, .true.)
    call put_outside(5, 2, .false.)
    call put_outside(20, 1, .true.)
    call put_outside(60, 5, .false.)
    call shared_model%infer(x_inside, y_inside)
    call shared_model%infer(x_clamped, y_clamped)
  end subroutine make_columns

  subroutine put_outside(c, i, above)
    integer, intent(in) :: c, i
    logical, intent(in) :: above
    real(real64) :: low, high

    low = shared_model%input_min(i)
    high = shared_model%input_max(i)
    x_outside(c, i) = merge(high + (high - low), low - (high - low), above)
    x_clamped(c, i) = merge(high, low, above)
    outside(c) = outside(c) + 1
  end subroutine put_outside

  subroutine test_guard()
    type(emulator_guard) :: guard
    real(real64) :: x(pcols, num_inputs), y(pcols, num_outputs), yt(num_outputs, pcols)
    integer :: stat

    call shared_model%infer(x_inside, y, guard=guard, stat=stat)
    call check(stat == 0 .and. all(y == y_inside), 'a guard changes nothing inside the ranges')
    call check(guard%num_samples == pcols .and. guard%num_outside == 0 .and. all(guard%outside == 0), 'nothing outside')
    call check(size(guard%below) == num_inputs .and. all(guard%below + guard%above + guard%nan == 0), 'no counts')
    guard%clamp = .true.
    call shared_model%infer(x_outside, y, guard=guard, stat=stat)
    call check(stat == 0 .and. all(y == y_clamped), 'clamp: as if the inputs had been at the ends of the ranges')
    call check(all(guard%outside == outside) .and. guard%num_samples == 2*pcols .and. guard%num_outside == 3, 'flags')
    call check(all(guard%above == [2_int64, 0_int64, 0_int64, 0_int64, 0_int64]), 'above')
    call check(all(guard%below == [0_int64, 1_int64, 0_int64, 0_int64, 1_int64]), 'below')
    call shared_model%infer(transpose(x_outside), yt, ncol=20, layout=inputs_first, guard=guard, stat=stat)
    call check(stat == 0 .and. all(yt(:, :20) == transpose(y_clamped(:20, :))), 'clamp, inputs first')
    call check(all(guard%outside(:20) == outside(:20)) .and. guard%num_outside == 5, 'flags of 20 columns')
    x = x_inside
    x(7, 3) = ieee_value(1._real64, ieee_quiet_nan)
    call shared_model%infer(x, y, guard=guard, stat=stat)
    call check(stat == 0 .and. guard%nan(3) == 1 .and. sum(guard%nan) == 1 .and. guard%outside(7) == 1, 'NaN')
    call check(all(y(:6, :) == y_inside(:6, :)) .and. all(y(8:, :) == y_inside(8:, :)), 'NaN stays with its column')
    call guard%reset()
    call check(guard%clamp .and. guard%num_samples == 0 .and. .not. allocated(guard%below), 'reset')
    call shared_model%infer(x_outside, y, ncol=0, guard=guard, stat=stat)
    call check(stat == 0 .and. guard%num_samples == 0 .and. size(guard%outside) == 0, 'no columns')
    call shared_model%infer(x_outside(:, :), y, guard=guard, stat=stat)
    call check(stat == 0 .and. all(guard%outside == outside), 'more columns than before')
  end subroutine test_guard

  subroutine test_guard_errors()
    type(emulator_guard) :: guard
    real(real64) :: y(pcols, num_outputs)
    character(len=:), allocatable :: errmsg
    integer :: stat

    y = untouched
    call shared_model%infer(x_outside, y, guard=guard, ncol=pcols + 1, stat=stat)
    call check(stat /= 0 .and. guard%num_samples == 0 .and. .not. allocated(guard%below), 'a call that fails counts nothing')
    allocate(guard%below(num_inputs + 1))
    guard%below = 7
    call shared_model%infer(x_outside, y, guard=guard, stat=stat, errmsg=errmsg)
    call check(stat /= 0 .and. all(guard%below == 7) .and. guard%num_samples == 0, 'a guard of another model')
    call check(index(errmsg, 'guard%reset()') > 0, errmsg)
    call check(all(y == untouched), 'y is not touched')
    call guard%reset()
    call shared_model%infer(x_outside, y, guard=guard, stat=stat)
    call check(stat == 0 .and. guard%num_outside == 3, 'and works after reset')
  end subroutine test_guard_errors

  subroutine test_add()
    type(emulator_guard) :: a, b, other
    real(real64) :: y(pcols, num_outputs)
    integer :: stat

    call shared_model%infer(x_outside, y, guard=b)
    call a%add(b, stat)
    call a%add(b)
    call check(stat == 0 .and. a%num_samples == 2*pcols .and. a%num_outside == 6, 'add')
    call check(all(a%below == 2*b%below) .and. all(a%above == 2*b%above) .and. all(a%nan == 0), 'add, by input')
    call a%add(other, stat)
    call check(stat == 0 .and. a%num_samples == 2*pcols, 'add nothing')
    allocate(other%below(2), other%above(2), other%nan(2))
    other%num_samples = 1
    call a%add(other, stat)
    call check(stat /= 0 .and. a%num_samples == 2*pcols, 'guards of different models are not added')
  end subroutine test_add

  subroutine test_pure_is_infer()
    type(emulator_guard) :: guard
    type(emulator_model) :: empty
    real(real64) :: y(pcols, num_outputs), wide(2*pcols, 0:2*num_outputs), yt(num_outputs, pcols)
    real(real32) :: x32(pcols, num_inputs), y32(pcols, num_outputs), z32(pcols, num_outputs)
    integer :: stat

    call shared_model%infer_pure(x_inside, y, stat)
    call check(stat == 0 .and. all(y == y_inside), 'infer_pure')
    guard%clamp = .true.
    call shared_model%infer_pure(x_outside, y, stat, guard=guard)
    call check(stat == 0 .and. all(y == y_clamped) .and. all(guard%outside == outside), 'infer_pure, guarded')
    yt = untouched
    call shared_model%infer_pure(transpose(x_inside), yt, stat, ncol=11, layout=inputs_first)
    call check(stat == 0 .and. all(yt(:, :11) == transpose(y_inside(:11, :))) .and. all(yt(:, 12:) == untouched), &
      'infer_pure, inputs first, some of the columns')
    wide = untouched
    call shared_model%infer_pure(x_inside(pcols:1:-1, :), wide(2*pcols:2:-2, 1:2*num_outputs:2), stat)
    call check(stat == 0 .and. all(wide(2::2, 1::2) == y_inside), 'infer_pure, sections')
    call check(all(wide(1::2, :) == untouched) .and. all(wide(:, 0::2) == untouched), 'nothing beside them is written')
    x32 = real(x_inside, real32)
    call shared_model%infer(x32, z32)
    call shared_model%infer_pure(x32, y32, stat)
    call check(stat == 0 .and. all(y32 == z32), 'infer_pure, real32')
    call shared_model%infer_pure(x_inside(:, 2:), y, stat)
    call check(stat == 1 .and. shared_model%status() == 0, 'infer_pure: an error is in stat, and nowhere else')
    call empty%infer_pure(x_inside, y, stat)
    call check(stat == 1, 'infer_pure, no model')
  end subroutine test_pure_is_infer

  subroutine test_do_concurrent()
    type(emulator_guard) :: guards(chunks), total
    real(real64), allocatable :: x(:,:,:), y(:,:,:)
    integer :: stats(chunks), chunk

    allocate(x(pcols, num_inputs, chunks), y(pcols, num_outputs, chunks))
    do chunk = 1, chunks
      x(:, :, chunk) = x_outside
      guards(chunk)%clamp = .true.
    end do
    y = untouched
    do concurrent (chunk = 1:chunks)
      call shared_model%infer_pure(x(:, :, chunk), y(:, :, chunk), stats(chunk), ncol=columns_of(chunk), &
        guard=guards(chunk))
    end do
    call check(all(stats == 0), 'do concurrent: stat')
    call check(chunks_are_right(y), 'do concurrent: the same bits')
    do chunk = 1, chunks
      call total%add(guards(chunk))
    end do
    call check(total_is_right(total), 'do concurrent: counters add up')
  end subroutine test_do_concurrent

  !> Sizes and ranges are pure as well
  pure logical function knows_its_ranges(model)
    type(emulator_model), intent(in) :: model
    integer :: i

    knows_its_ranges = model%is_loaded() .and. model%num_outputs() == num_outputs
    do i = 1, model%num_inputs()
      knows_its_ranges = knows_its_ranges .and. model%input_min(i) < model%input_max(i)
    end do
  end function knows_its_ranges

  pure integer function columns_of(chunk)
    integer, intent(in) :: chunk

    columns_of = modulo(7*chunk, pcols) + 1
  end function columns_of

  logical function chunks_are_right(y)
    real(real64), intent(in) :: y(:,:,:)
    integer :: chunk, n

    chunks_are_right = .true.
    do chunk = 1, chunks
      n = columns_of(chunk)
      chunks_are_right = chunks_are_right .and. all(y(:n, :, chunk) == y_clamped(:n, :)) .and. &
        all(y(n + 1:, :, chunk) == untouched)
    end do
  end function chunks_are_right

  logical function total_is_right(total)
    type(emulator_guard), intent(in) :: total
    integer :: chunk, n
    integer(int64) :: samples, bad, above

    samples = 0
    bad = 0
    above = 0
    do chunk = 1, chunks
      n = columns_of(chunk)
      samples = samples + n
      bad = bad + count(outside(:n) > 0)
      above = above + count(x_outside(:n, 1) > x_clamped(:n, 1))
    end do
    total_is_right = total%num_samples == samples .and. total%num_outside == bad .and. total%above(1) == above
  end function total_is_right

  subroutine test_openmp()
    type(emulator_guard) :: total
    real(real64), allocatable :: x(:,:,:), y(:,:,:), reversed(:,:)
    integer :: chunk, wrong, i

    call check(knows_its_ranges(shared_model), 'pure inquiries')
    allocate(x(pcols, num_inputs, chunks), y(pcols, num_outputs, chunks), reversed(pcols, num_outputs))
    do chunk = 1, chunks
      x(:, :, chunk) = x_outside
    end do
    do i = 1, 3  ! threads of one wave find the workspaces of the wave before
      y = untouched
      wrong = 0
      call total%reset()
      !$omp parallel num_threads(4) reduction(+:wrong)
      call one_thread(x, y, total, wrong)
      !$omp end parallel
      call check(wrong == 0 .and. chunks_are_right(y), 'threads: the same bits')
      call check(total_is_right(total), 'threads: counters add up')
    end do
    wrong = 0
    !$omp parallel do num_threads(4) private(reversed) reduction(+:wrong)
    do chunk = 1, chunks
      reversed = untouched
      call shared_model%infer(x_inside(pcols:1:-1, :), reversed(pcols:1:-1, :))
      if (any(reversed /= y_inside)) wrong = wrong + 1
    end do
    !$omp end parallel do
    call check(wrong == 0 .and. shared_model%status() == 0, 'threads: sections backwards')
  end subroutine test_openmp

  !> A guard is this thread's own: a local variable of what the thread calls
  subroutine one_thread(x, y, total, wrong)
    real(real64), intent(in) :: x(:,:,:)
    real(real64), intent(inout) :: y(:,:,:)
    type(emulator_guard), intent(inout) :: total
    integer, intent(inout) :: wrong
    type(emulator_guard) :: guard
    integer :: chunk, stat

    guard%clamp = .true.
    !$omp do schedule(dynamic, 1)
    do chunk = 1, chunks
      call shared_model%infer(x(:, :, chunk), y(:, :, chunk), ncol=columns_of(chunk), guard=guard, stat=stat)
      if (stat /= 0) wrong = wrong + 1
    end do
    !$omp end do
    !$omp critical
    call total%add(guard)
    !$omp end critical
  end subroutine one_thread

  subroutine test_single_precision_sections()
    type(emulator_guard) :: guard
    real(real32) :: x(pcols, num_inputs), y(pcols, num_outputs), z(pcols, num_outputs)
    real(real32) :: wide(2*num_inputs, 3*pcols), result(2*num_outputs, 2*pcols)
    integer :: stat

    x = real(x_inside, real32)
    call shared_model%infer(x, y)
    wide = ieee_value(1._real32, ieee_quiet_nan)
    wide(2*num_inputs:1:-2, 3*pcols:1:-3) = transpose(x)
    result = real(untouched, real32)
    call shared_model%infer(wide(2*num_inputs:1:-2, 3*pcols:1:-3), result(2::2, 2*pcols:1:-2), layout=inputs_first, &
      guard=guard, stat=stat)
    call check(stat == 0 .and. all(transpose(result(2::2, 2*pcols:1:-2)) == y), 'real32, both dimensions backwards')
    call check(all(result(1::2, :) == real(untouched, real32)) .and. all(result(:, 1::2) == real(untouched, real32)), &
      'real32: nothing beside the section is written')
    call check(guard%num_outside == 0 .and. guard%num_samples == pcols, 'real32: inside')
    guard%clamp = .true.
    x = real(x_outside, real32)
    call shared_model%infer(real(x_clamped, real32), z)
    call shared_model%infer(x, y, guard=guard, stat=stat)
    call check(stat == 0 .and. all(y == z) .and. all(guard%outside == outside), 'real32: clamped')
  end subroutine test_single_precision_sections

  subroutine test_options()
    type(emulator_model) :: model
    real(real64) :: y(pcols, num_outputs)
    integer(int8), allocatable :: bytes(:)
    character(len=:), allocatable :: errmsg
    integer :: unit, stat
    integer(int64) :: file_size

    call check(shared_model%backend() == 'native' .and. shared_model%precision() == 32, 'defaults')
    call check(model%backend() == '' .and. model%precision() == 0, 'a model that is not loaded')
    call model%load(path, stat, errmsg, backend='native  ', isa='portable', precision=32, num_threads=3, library='')
    call check(stat == 0 .and. model%isa() == 'portable', 'isa')
    call model%infer(x_inside, y)
    call check(all(y == y_inside), 'another instruction set: the same bits')
    call model%load(path, stat, errmsg, precision=64)
    call check(stat == 0 .and. model%precision() == 64, 'precision')
    call model%load(path, stat, errmsg, backend='nothing')
    call check(stat == 1 .and. index(errmsg, "'nothing', expected native, onnxruntime or libtorch") > 0, errmsg)
    call model%load(path, stat, errmsg, precision=16)
    call check(stat == 1 .and. index(errmsg, '16') > 0 .and. .not. model%is_loaded(), errmsg)
    open(newunit=unit, file=path, access='stream', form='unformatted', status='old', action='read')
    inquire(unit=unit, size=file_size)
    allocate(bytes(file_size))
    read(unit) bytes
    close(unit)
    call model%load_bytes(bytes, stat, errmsg, isa='portable')
    call check(stat == 0 .and. model%isa() == 'portable', 'load_bytes with an option')
    call model%load_bytes(bytes, stat, errmsg, backend='onnxruntime', library='/nowhere/libonnxruntime.so')
    call check(stat == 4 .and. index(errmsg, 'nowhere') > 0, errmsg)
  end subroutine test_options

end program test_concurrent
