!> What the host is told: one namelist file, every value checked before anything runs.
module host_config
  use host_namelist, only: path_length, choice_length, unset, open_namelist, close_namelist, in_file, check_integer, &
    check_choice, check_set
  implicit none
  private
  public :: config_t, read_config

  type :: config_t
    character(len=choice_length) :: scheme = 'both'     !! 'arg', 'emulator' or 'both'
    character(len=choice_length) :: batching = 'level'  !! points per call: 'point', 'level' or 'chunk'
    character(len=path_length) :: model = unset         !! model.onnx
    logical :: fallback = .true.                        !! ARG where an input lies outside the training range
    character(len=path_length) :: samples = unset       !! netCDF file of states, with the parcel model's fn
    character(len=path_length) :: sample_rows = unset   !! which samples: text or netCDF of 0-based rows; unset: all
    character(len=path_length) :: output = 'host.json'  !! results
    character(len=path_length) :: fractions = unset     !! netCDF file for every output of each scheme; unset: none
    integer :: num_samples = 0                          !! use the first so many rows only; 0: all
    integer :: pcols = 16                               !! columns a chunk can hold
    integer :: pver = 72                                !! levels of a column
    integer :: repeats = 20                             !! timed passes over all chunks
  contains
    procedure :: runs_arg
    procedure :: runs_emulator
  end type config_t

contains

  !> Read &host_nl from `path`. On failure `errmsg` is allocated and says what is wrong and what would be right.
  subroutine read_config(path, config, errmsg)
    character(len=*), intent(in) :: path
    type(config_t), intent(out) :: config
    character(len=:), allocatable, intent(out) :: errmsg

    character(len=choice_length) :: scheme, batching
    character(len=path_length) :: model, samples, sample_rows, output, fractions
    logical :: fallback
    integer :: num_samples, pcols, pver, repeats, unit, iostat
    character(len=512) :: iomsg
    namelist /host_nl/ scheme, batching, model, fallback, samples, sample_rows, output, fractions, num_samples, pcols, &
      pver, repeats

    scheme = config%scheme
    batching = config%batching
    model = config%model
    fallback = config%fallback
    samples = config%samples
    sample_rows = config%sample_rows
    output = config%output
    fractions = config%fractions
    num_samples = config%num_samples
    pcols = config%pcols
    pver = config%pver
    repeats = config%repeats

    call open_namelist(path, unit, errmsg)
    if (allocated(errmsg)) return
    read(unit, nml=host_nl, iostat=iostat, iomsg=iomsg)
    call close_namelist(path, unit, 'host_nl', 'scheme, batching, model, fallback, samples, sample_rows, output, '// &
      'fractions, num_samples, pcols, pver, repeats', iostat, iomsg, errmsg)
    if (allocated(errmsg)) return

    config%scheme = scheme
    config%batching = batching
    config%model = model
    config%fallback = fallback
    config%samples = samples
    config%sample_rows = sample_rows
    config%output = output
    config%fractions = fractions
    config%num_samples = num_samples
    config%pcols = pcols
    config%pver = pver
    config%repeats = repeats
    call check(config, errmsg)
    if (allocated(errmsg)) errmsg = in_file(path, errmsg)
  end subroutine read_config

  subroutine check(config, errmsg)
    type(config_t), intent(in) :: config
    character(len=:), allocatable, intent(inout) :: errmsg

    call check_choice('scheme', config%scheme, [character(len=8) :: 'arg', 'emulator', 'both'], errmsg)
    call check_choice('batching', config%batching, [character(len=8) :: 'point', 'level', 'chunk'], errmsg)
    call check_set('samples', config%samples, 'the path of a netCDF file of states', errmsg)
    if (config%runs_emulator()) call check_set('model', config%model, &
      "the path of a model.onnx (or scheme = 'arg', which needs none)", errmsg)
    call check_set('output', config%output, 'the path of the JSON file to write', errmsg)
    call check_integer('num_samples', config%num_samples, 0, huge(1), errmsg)
    call check_integer('pcols', config%pcols, 1, 10000000, errmsg)
    call check_integer('pver', config%pver, 1, 10000, errmsg)
    call check_integer('repeats', config%repeats, 1, 1000000, errmsg)
  end subroutine check

  pure logical function runs_arg(self)
    class(config_t), intent(in) :: self

    runs_arg = self%scheme /= 'emulator'
  end function runs_arg

  pure logical function runs_emulator(self)
    class(config_t), intent(in) :: self

    runs_emulator = self%scheme /= 'arg'
  end function runs_emulator
end module host_config
