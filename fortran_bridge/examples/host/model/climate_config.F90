!> What climate_host is told: one namelist file, every value checked before anything runs.
module climate_config
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8
  use host_namelist, only: path_length, choice_length, unset, open_namelist, close_namelist, in_file, check_integer, &
    check_real, check_choice, check_set, text
  implicit none
  private
  public :: config_t, read_config
  character(len=*), parameter :: known = 'num_columns, num_levels, pcols, num_steps, time_step, seed, pertlim, '// &
    'scheme, batching, model, result_of, fallback, reference, history, history_every, restart_in, restart_out, '// &
    'restart_every, timing, verbose'

  !> Plain data, so that rank 0 can broadcast it as bytes.
  type :: config_t
    integer :: num_columns = 48                          !! columns of the globe
    integer :: num_levels = 12                           !! levels of a column
    integer :: pcols = 16                                !! columns a chunk can hold
    integer :: num_steps = 48                            !! steps of this run
    real(r8) :: time_step = 1800._r8                     !! s
    integer :: seed = 1                                  !! of the columns' differences and of turbulence
    real(r8) :: pertlim = 0._r8                          !! relative perturbation of the initial temperature
    character(len=choice_length) :: scheme = 'arg'       !! 'arg', 'emulator', 'both' or 'external'
    character(len=choice_length) :: batching = 'chunk'   !! points per call: 'point' (1) or 'chunk' (all of a call site)
    character(len=path_length) :: model = unset          !! model.onnx
    character(len=choice_length) :: result_of = 'emulator' !! whose numbers the host takes where scheme is 'both'
    logical :: fallback = .true.                         !! ARG where an input lies outside the training range
    character(len=choice_length) :: reference = 'none'   !! 'arg', 'emulator': timed on the same points
    character(len=path_length) :: history = 'history.nc' !! unset: none
    integer :: history_every = 1                         !! steps between records
    character(len=path_length) :: restart_in = unset     !! state to go on from; unset: the initial state
    character(len=path_length) :: restart_out = 'restart.nc'  !! state at the end; unset: none
    integer :: restart_every = 0                         !! steps between states written besides; 0: only at the end
    character(len=path_length) :: timing = unset         !! JSON file for times and counters; unset: none
    logical :: verbose = .true.                          !! say on standard output what runs
  contains
    procedure :: needs_model
  end type config_t

contains

  !> Read &climate_nl from `path`. On failure `errmsg` is allocated and says what is wrong and what would be right.
  subroutine read_config(path, config, errmsg)
    character(len=*), intent(in) :: path
    type(config_t), intent(out) :: config
    character(len=:), allocatable, intent(out) :: errmsg

    integer :: num_columns, num_levels, pcols, num_steps, seed, history_every, restart_every, unit, iostat
    real(r8) :: time_step, pertlim
    character(len=choice_length) :: scheme, batching, result_of, reference
    character(len=path_length) :: model, history, restart_in, restart_out, timing
    logical :: fallback, verbose
    character(len=512) :: iomsg
    namelist /climate_nl/ num_columns, num_levels, pcols, num_steps, time_step, seed, pertlim, scheme, batching, &
      model, result_of, fallback, reference, history, history_every, restart_in, restart_out, restart_every, timing, &
      verbose

    num_columns = config%num_columns
    num_levels = config%num_levels
    pcols = config%pcols
    num_steps = config%num_steps
    time_step = config%time_step
    seed = config%seed
    pertlim = config%pertlim
    scheme = config%scheme
    batching = config%batching
    model = config%model
    result_of = config%result_of
    fallback = config%fallback
    reference = config%reference
    history = config%history
    history_every = config%history_every
    restart_in = config%restart_in
    restart_out = config%restart_out
    restart_every = config%restart_every
    timing = config%timing
    verbose = config%verbose

    call open_namelist(path, unit, errmsg)
    if (allocated(errmsg)) return
    read(unit, nml=climate_nl, iostat=iostat, iomsg=iomsg)
    call close_namelist(path, unit, 'climate_nl', known, iostat, iomsg, errmsg)
    if (allocated(errmsg)) return

    config%num_columns = num_columns
    config%num_levels = num_levels
    config%pcols = pcols
    config%num_steps = num_steps
    config%time_step = time_step
    config%seed = seed
    config%pertlim = pertlim
    config%scheme = scheme
    config%batching = batching
    config%model = model
    config%result_of = result_of
    config%fallback = fallback
    config%reference = reference
    config%history = history
    config%history_every = history_every
    config%restart_in = restart_in
    config%restart_out = restart_out
    config%restart_every = restart_every
    config%timing = timing
    config%verbose = verbose
    call check(config, errmsg)
    if (allocated(errmsg)) errmsg = in_file(path, errmsg)
  end subroutine read_config

  subroutine check(config, errmsg)
    type(config_t), intent(in) :: config
    character(len=:), allocatable, intent(inout) :: errmsg

    call check_integer('num_columns', config%num_columns, 1, 10000000, errmsg)
    call check_integer('num_levels', config%num_levels, 1, 1000, errmsg)
    call check_integer('pcols', config%pcols, 1, 10000000, errmsg)
    call check_integer('num_steps', config%num_steps, 1, 100000000, errmsg)
    call check_integer('seed', config%seed, 0, 1000000, errmsg)
    call check_integer('history_every', config%history_every, 1, 100000000, errmsg)
    call check_integer('restart_every', config%restart_every, 0, 100000000, errmsg)
    call check_choice('scheme', config%scheme, [character(len=8) :: 'arg', 'emulator', 'both', 'external'], errmsg)
    call check_choice('batching', config%batching, [character(len=8) :: 'point', 'chunk'], errmsg)
    call check_choice('result_of', config%result_of, [character(len=8) :: 'emulator', 'arg'], errmsg)
    call check_choice('reference', config%reference, [character(len=8) :: 'none', 'arg', 'emulator'], errmsg)
    call check_real('time_step', config%time_step, 1._r8, 7200._r8, '1 to 7200 (s)', errmsg)
    call check_real('pertlim', config%pertlim, 0._r8, 0.01_r8, '0 to 0.01', errmsg)
    if (config%needs_model()) call check_set('model', config%model, &
      "the path of a model.onnx (or scheme = 'arg', which needs none)", errmsg)
    if (allocated(errmsg)) return
    if (int(max(config%num_columns, config%pcols), int64)*config%num_levels > huge(1)) then
      errmsg = 'num_columns (or pcols) times num_levels is to be at most '//text(huge(1))
    else if (config%restart_every > 0 .and. config%restart_out == unset) then
      errmsg = 'restart_every = '//text(config%restart_every)//', but restart_out is empty: expected the path to write'
    end if
  end subroutine check

  pure logical function needs_model(self)
    class(config_t), intent(in) :: self

    needs_model = self%scheme == 'emulator' .or. self%scheme == 'both' .or. self%reference == 'emulator'
  end function needs_model
end module climate_config
