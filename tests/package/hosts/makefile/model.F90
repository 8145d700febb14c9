!> usage: model MODEL: the first output for inputs of 0.5
program model
  use, intrinsic :: iso_fortran_env, only: real64
  use libemulator, only: emulator_model
  implicit none
  type(emulator_model) :: emulator
  real(real64), allocatable :: x(:,:), y(:,:)
  character(len=1000) :: path
  character(len=:), allocatable :: errmsg
  integer :: stat

  call get_command_argument(1, path)
  call emulator%load(path, stat, errmsg)
  if (stat == 0) then
    allocate(x(1, emulator%num_inputs()), y(1, emulator%num_outputs()))
    x = 0.5_real64
    call emulator%infer(x, y, stat=stat, errmsg=errmsg)
  end if
  if (stat /= 0) then
    print '(a)', errmsg
    stop 1
  end if
  print '(es24.16e3)', y(1, 1)
end program model
