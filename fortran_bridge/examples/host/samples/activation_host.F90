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
  use host_physics, only: connection_t, connect_model
  use host_report, only: result_t, print_table, write_json
  use host_run, only: timing_t, run_physics
  use host_samples, only: samples_t, read_samples
  use host_state, only: chunk_t, build_chunks
  use libemulator, only: emulator_model
  implicit none

  type(config_t) :: config
  type(samples_t) :: samples
  type(chunk_t), allocatable :: chunks(:)
  type(emulator_model) :: model
  type(connection_t) :: connection
  type(timing_t) :: timing
  type(result_t), allocatable :: results(:)
  character(len=:), allocatable :: namelist_path, errmsg, isa, flags
  integer :: stat

  namelist_path = argument()
  if (namelist_path == '--help' .or. namelist_path == '-h') then
    write(output_unit, '(a)') 'usage: activation_host [namelist file]   (default: host.nml)', &
      'The namelist &host_nl sets scheme, batching, model, samples, sample_rows, output, fractions, num_samples,', &
      'pcols, pver, repeats; host.nml beside the source says what each is.'
    stop
  end if
  call read_config(namelist_path, config, errmsg)
  call stop_if(errmsg)

  isa = ''
  if (config%runs_emulator()) then
    call model%load(trim(config%model), stat=stat, errmsg=errmsg)
    call stop_unless_ok(stat, errmsg)
    call connect_model(model, connection, errmsg)
    if (allocated(errmsg)) errmsg = "model '"//trim(config%model)//"': "//errmsg
    call stop_if(errmsg)
    isa = model%isa()
  end if
  call read_samples(trim(config%samples), trim(config%sample_rows), config%num_samples, samples, errmsg)
  call stop_if(errmsg)

  call build_chunks(samples, config%pcols, config%pver, chunks)
  call run_physics(config, model, connection, chunks, timing, errmsg)
  call stop_if(errmsg)

  allocate(results(0))
  if (config%runs_arg()) results = [results, result_t(name='arg', errors=measure_errors(samples, chunks, .false.), &
    ns_per_point=timing%arg, ns_per_point_number_only=timing%arg_number_only)]
  if (config%runs_emulator()) results = [results, result_t(name='emulator', &
    errors=measure_errors(samples, chunks, .true.), ns_per_point=timing%emulator, &
    parameters=int(model%num_parameters()))]
  flags = without_paths(compiler_options())
  call print_table(config, timing, size(chunks), flags, results)
  call write_json(trim(config%output), config, timing, size(chunks), flags, isa, results, errmsg)
  call stop_if(errmsg)
  if (config%fractions /= ' ') then
    call write_fractions(trim(config%fractions), config, samples%num_samples, chunks, errmsg)
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

  subroutine stop_unless_ok(status, message)
    integer, intent(in) :: status
    character(len=:), allocatable, intent(in) :: message

    if (status /= 0) call stop_if(message)
  end subroutine stop_unless_ok

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
