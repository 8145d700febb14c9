!> What the host is told: one namelist file, every value checked before anything runs.
module host_config
  implicit none
  private
  public :: config_t, read_config

  integer, parameter :: path_length = 1024
  !> Marks a text that the namelist did not set.
  character(len=*), parameter :: unset = ' '

  type :: config_t
    character(len=16) :: scheme = 'both'               !! 'arg', 'emulator' or 'both'
    character(len=16) :: batching = 'level'            !! points per call of the emulator: 'point', 'level', 'chunk'
    character(len=path_length) :: model = unset        !! model.onnx
    character(len=path_length) :: samples = unset      !! netCDF file of states, with the parcel model's fn
    character(len=path_length) :: sample_rows = unset  !! which samples: text or netCDF of 0-based rows; unset: all
    character(len=path_length) :: output = 'host.json' !! results
    character(len=path_length) :: fractions = unset    !! netCDF file for fn of each scheme; unset: none
    integer :: num_samples = 0                         !! use the first so many rows only; 0: all
    integer :: pcols = 16                              !! columns a chunk can hold
    integer :: pver = 72                               !! levels of a column
    integer :: repeats = 20                            !! timed passes over all chunks
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

    character(len=16) :: scheme, batching
    character(len=path_length) :: model, samples, sample_rows, output, fractions
    integer :: num_samples, pcols, pver, repeats, unit, iostat
    character(len=512) :: iomsg
    namelist /host_nl/ scheme, batching, model, samples, sample_rows, output, fractions, num_samples, pcols, pver, &
      repeats

    scheme = config%scheme
    batching = config%batching
    model = config%model
    samples = config%samples
    sample_rows = config%sample_rows
    output = config%output
    fractions = config%fractions
    num_samples = config%num_samples
    pcols = config%pcols
    pver = config%pver
    repeats = config%repeats

    open(newunit=unit, file=path, status='old', action='read', iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) then
      errmsg = "namelist file '"//path//"' cannot be opened: "//trim(iomsg)
      return
    end if
    read(unit, nml=host_nl, iostat=iostat, iomsg=iomsg)
    close(unit)
    if (iostat /= 0) then
      errmsg = "namelist file '"//path//"': &host_nl cannot be read: "//trim(iomsg)// &
        '; it knows scheme, batching, model, samples, sample_rows, output, fractions, num_samples, pcols, pver, repeats'
      return
    end if

    config%scheme = scheme
    config%batching = batching
    config%model = model
    config%samples = samples
    config%sample_rows = sample_rows
    config%output = output
    config%fractions = fractions
    config%num_samples = num_samples
    config%pcols = pcols
    config%pver = pver
    config%repeats = repeats
    call check(config, errmsg)
    if (allocated(errmsg)) errmsg = "namelist file '"//path//"': "//errmsg
  end subroutine read_config

  subroutine check(config, errmsg)
    type(config_t), intent(in) :: config
    character(len=:), allocatable, intent(inout) :: errmsg

    if (all(config%scheme /= [character(len=16) :: 'arg', 'emulator', 'both'])) then
      errmsg = "scheme = '"//trim(config%scheme)//"', expected 'arg', 'emulator' or 'both'"
    else if (all(config%batching /= [character(len=16) :: 'point', 'level', 'chunk'])) then
      errmsg = "batching = '"//trim(config%batching)//"', expected 'point', 'level' or 'chunk'"
    else if (config%samples == unset) then
      errmsg = "samples is not set, expected the path of a netCDF file of states"
    else if (config%runs_emulator() .and. config%model == unset) then
      errmsg = "model is not set, expected the path of a model.onnx (or scheme = 'arg', which needs none)"
    else if (config%output == unset) then
      errmsg = 'output is empty, expected the path of the JSON file to write'
    else if (config%pcols < 1) then
      errmsg = 'pcols = '//text(config%pcols)//', expected 1 or more'
    else if (config%pver < 1) then
      errmsg = 'pver = '//text(config%pver)//', expected 1 or more'
    else if (config%repeats < 1) then
      errmsg = 'repeats = '//text(config%repeats)//', expected 1 or more'
    else if (config%num_samples < 0) then
      errmsg = 'num_samples = '//text(config%num_samples)//', expected 0 (all) or more'
    end if
  end subroutine check

  pure logical function runs_arg(self)
    class(config_t), intent(in) :: self
    runs_arg = self%scheme /= 'emulator'
  end function runs_arg

  pure logical function runs_emulator(self)
    class(config_t), intent(in) :: self
    runs_emulator = self%scheme /= 'arg'
  end function runs_emulator

  function text(number)
    integer, intent(in) :: number
    character(len=:), allocatable :: text
    character(len=12) :: buffer

    write(buffer, '(i0)') number
    text = trim(buffer)
  end function text
end module host_config
