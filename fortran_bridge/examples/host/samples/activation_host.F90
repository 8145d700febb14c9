!> A small Fortran host that calls aerosol activation as E3SM's physics does: by ARG, by an emulator, or by both.
!!
!! Usage: activation_host [namelist file, host.nml by default]
!!
!! Exit status 0, or 1 with a message on standard error. Threads: OMP_NUM_THREADS.
program activation_host
  use, intrinsic :: iso_fortran_env, only: error_unit, output_unit, compiler_options
  use host_config, only: config_t, read_config
  use host_errors, only: measure_errors
  use host_fractions, only: write_fractions
  use host_report, only: run_t, print_table, write_json
  use host_run, only: run_physics, num_threads
  use host_samples, only: samples_t, read_samples
  use host_scheme, only: scheme_t, connect_schemes
  use host_state, only: chunk_t, build_chunks, collect
  implicit none

  type(config_t) :: config
  type(samples_t) :: samples
  type(chunk_t), allocatable :: chunks(:)
  type(scheme_t), allocatable :: schemes(:)
  type(run_t) :: run
  character(len=:), allocatable :: namelist_path, errmsg
  integer :: s

  namelist_path = argument()
  if (namelist_path == '--help' .or. namelist_path == '-h') then
    write(output_unit, '(a)') 'usage: activation_host [namelist file]   (default: host.nml)', &
      'The namelist &host_nl sets scheme, batching, model, fallback, samples, sample_rows, output, fractions,', &
      'num_samples, pcols, pver, repeats; host.nml beside the source says what each is.'
    stop
  end if
  call read_config(namelist_path, config, errmsg)
  call stop_if(errmsg)
  call connect_schemes(config, schemes, errmsg)
  call stop_if(errmsg)
  call read_samples(trim(config%samples), trim(config%sample_rows), config%num_samples, samples, errmsg)
  call stop_if(errmsg)

  call build_chunks(samples, config%pcols, config%pver, chunks)
  call run_physics(config, chunks, schemes, errmsg)
  call stop_if(errmsg)

  do s = 1, size(schemes)
    call collect(samples%num_samples, chunks, schemes(s)%answers, schemes(s)%found)
    schemes(s)%errors = measure_errors(samples, schemes(s)%found)
  end do
  run = run_t(samples%num_samples, sum(chunks%ncol)*config%pver, size(chunks), num_threads())
  run%flags = without_paths(compiler_options())
  call print_table(config, run, schemes)
  call write_json(trim(config%output), config, run, schemes, errmsg)
  call stop_if(errmsg)
  if (config%fractions /= ' ') then
    call write_fractions(trim(config%fractions), schemes, errmsg)
    call stop_if(errmsg)
  end if

contains

  function argument()
    character(len=:), allocatable :: argument
    integer :: length

    if (command_argument_count() == 0) then
      argument = 'host.nml'
    else
      call get_command_argument(1, length=length)
      allocate(character(len=length) :: argument)
      call get_command_argument(1, argument)
    end if
  end function argument

  subroutine stop_if(message)
    character(len=:), allocatable, intent(in) :: message

    if (.not. allocated(message)) return
    write(error_unit, '(2a)') 'activation_host: ', message
    stop 1, quiet=.true.
  end subroutine stop_if

  !> Compiler options that say how code was made; not where files lie.
  function without_paths(options) result(kept)
    character(len=*), intent(in) :: options
    character(len=:), allocatable :: kept, rest
    integer :: space

    kept = ''
    rest = trim(adjustl(options))//' '
    do while (len_trim(rest) > 0)
      space = index(rest, ' ')
      if (index(rest(:space), '/') == 0 .and. rest(1:1) == '-' .and. all(rest(:space) /= ['-I', '-J'])) &
        kept = kept//rest(:space)
      rest = adjustl(rest(space + 1:))
    end do
    kept = trim(kept)
  end function without_paths
end program activation_host
