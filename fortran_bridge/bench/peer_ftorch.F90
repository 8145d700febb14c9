!> FTorch, called as its documentation shows. At its best: arrays that stay where they are, so that tensors are made
!! once per batch size; a call copies its states in and its results out.
module peer_ftorch
  use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int, c_loc, c_long, c_f_pointer, c_null_char, c_ptr
  use ftorch, only: torch_model, torch_tensor, torch_kcpu, torch_model_load, torch_model_forward, &
    torch_tensor_from_array, torch_delete
  implicit none
  private

  type :: state_t
    type(torch_model) :: model
    type(torch_tensor) :: inputs(1), outputs(1)
    real(c_double), pointer, contiguous :: x(:, :) => null(), y(:, :) => null()
  end type state_t

contains

  function bench_ftorch_load(path) result(handle) bind(c)
    character(kind=c_char), intent(in) :: path(*)
    type(c_ptr) :: handle
    type(state_t), pointer :: state
    character(len=:), allocatable :: filename
    integer :: i

    filename = ''
    do i = 1, 4096
      if (path(i) == c_null_char) exit
      filename = filename//path(i)
    end do
    allocate(state)
    call torch_model_load(state%model, filename, torch_kcpu)
    handle = c_loc(state)
  end function bench_ftorch_load

  subroutine bench_ftorch_infer(handle, n, num_inputs, num_outputs, x, y) bind(c)
    type(c_ptr), value :: handle
    integer(c_long), value :: n
    integer(c_int), value :: num_inputs, num_outputs
    real(c_double), intent(in) :: x(n, num_inputs)
    real(c_double), intent(out) :: y(n, num_outputs)
    type(state_t), pointer :: state
    logical :: fits

    call c_f_pointer(handle, state)
    fits = associated(state%x)
    if (fits) fits = size(state%x, 1, c_long) == n
    if (.not. fits) call resize(state, n, num_inputs, num_outputs)
    state%x = x
    call torch_model_forward(state%model, state%inputs, state%outputs)
    y = state%y
  end subroutine bench_ftorch_infer

  subroutine bench_ftorch_unload(handle) bind(c)
    type(c_ptr), value :: handle
    type(state_t), pointer :: state

    call c_f_pointer(handle, state)
    call release(state)
    call torch_delete(state%model)
    deallocate(state)
  end subroutine bench_ftorch_unload

  subroutine resize(state, n, num_inputs, num_outputs)
    type(state_t), intent(inout) :: state
    integer(c_long), intent(in) :: n
    integer(c_int), intent(in) :: num_inputs, num_outputs

    call release(state)
    allocate(state%x(n, num_inputs), state%y(n, num_outputs))
    call torch_tensor_from_array(state%inputs(1), state%x, torch_kcpu)
    call torch_tensor_from_array(state%outputs(1), state%y, torch_kcpu)
  end subroutine resize

  subroutine release(state)
    type(state_t), intent(inout) :: state

    if (.not. associated(state%x)) return
    call torch_delete(state%inputs)
    call torch_delete(state%outputs)
    deallocate(state%x, state%y)
  end subroutine release
end module peer_ftorch
