!> A host that behaves like E3SM's physics: MPI ranks, threads over chunks, time steps in which activation feeds back on
!! cloud and rain, history and exact restart.
!!
!! Usage: mpirun -n RANKS climate_host [namelist file, climate.nml by default]
!!
!! Exit status 0, or 1 with a message on standard error. Threads of each rank: OMP_NUM_THREADS.
program climate_host
  use, intrinsic :: iso_c_binding, only: c_null_ptr
  use, intrinsic :: iso_fortran_env, only: output_unit
  use climate_external, only: external_activation
  use climate_model, only: run_climate
  use climate_parallel, only: finish_parallel
  implicit none
  procedure(external_activation), pointer :: none
  character(len=:), allocatable :: path, errmsg
  integer :: length

  path = 'climate.nml'
  if (command_argument_count() > 0) then
    call get_command_argument(1, length=length)
    deallocate(path)
    allocate(character(len=length) :: path)
    call get_command_argument(1, path)
  end if
  if (path == '--help' .or. path == '-h') then
    write(output_unit, '(a)') 'usage: mpirun -n RANKS climate_host [namelist file]   (default: climate.nml)', &
      'The namelist is &climate_nl; climate.nml beside the source says what each setting is.'
    stop
  end if
  none => null()
  call run_climate(path, none, c_null_ptr, errmsg)
  call finish_parallel()
  if (allocated(errmsg)) stop 1, quiet=.true.
end program climate_host
