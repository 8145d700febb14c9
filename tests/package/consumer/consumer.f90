!> usage: consumer_fortran MODEL: the first output for inputs of 0.5
program consumer
  use, intrinsic :: iso_fortran_env, only: real64
  use libemulator, only: emulator_model, inputs_first
  implicit none
  type(emulator_model) :: model
  real(real64), allocatable :: x(:,:), y(:,:)
  character(len=1000) :: path

  call get_command_argument(1, path)
  call model%load(path)
  allocate(x(model%num_inputs(), 1), y(model%num_outputs(), 1))
  x = 0.5_real64
  y = 0
  call model%infer(x, y, layout=inputs_first)
  if (model%status() /= 0) then
    print '(a)', model%message()
    stop 1
  end if
  print '(es24.16e3)', y(1, 1)
end program consumer
