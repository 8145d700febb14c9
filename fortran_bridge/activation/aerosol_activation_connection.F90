!> Where a model takes each input and gives each output, and the ends of its training ranges: found once, at start, from
!! the names and units in the model file. Inputs and outputs may stand in any order, and a model may take fewer inputs
!! than a host can make.
module aerosol_activation_connection
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_head, only: kelvin_t, read_kelvin
  use aerosol_activation_mapping, only: num_known_inputs, known_input_names, known_input_units
  use aerosol_activation_nan, only: is_nan
  use libemulator, only: emulator_model
  implicit none
  private
  public :: connection_t, connect_model, max_outputs
  public :: tair, rh, number, radius, kappa

  !> Places in `known_input_names`; of what is per mode, the place before the first.
  integer, parameter :: tair = 1, rh = 3, number = 4, radius = 8, kappa = 12

  integer, parameter :: max_outputs = 16  !! of a model; work space for them is laid out beforehand

  !> A hygroscopicity up to here takes up no water whatever it is, and a model trained from below here on is not led
  !! astray by one still lower: primary carbon without organics has 1e-10, the very end of the case study's range.
  real(r8), parameter :: inert_kappa = 1.e-6_r8

  type :: connection_t
    integer :: num_inputs = 0, num_outputs = 0
    integer :: input(num_known_inputs) = 0   !! column of the model for each known input; 0: the model does not take it
    integer :: fn(num_modes) = 0             !! column of each mode's fn; 0: the model gives ln S_max
    integer :: ln_smax = 0                   !! its column; 0: the model gives fn
    type(kelvin_t) :: kelvin                 !! constants of the closed form from ln S_max to fn
    real(r8), dimension(num_known_inputs) :: lowest = -huge(1._r8), highest = huge(1._r8)  !! training range
    real(r8), dimension(num_known_inputs) :: low = -huge(1._r8), high = huge(1._r8)        !! the same with the margin
    real(r8), dimension(num_known_inputs) :: least = -huge(1._r8), largest = huge(1._r8)   !! beyond: outside
  end type connection_t

contains

  !> Check names and units of the model's inputs and outputs, and find their columns. On failure `errmsg` is allocated.
  subroutine connect_model(model, margin, fallback, connection, errmsg)
    type(emulator_model), intent(in) :: model
    real(r8), intent(in) :: margin      !! relative; inputs within it of an end of their range count as at the end
    logical, intent(in) :: fallback     !! are there inputs that are outside at all?
    type(connection_t), intent(out) :: connection
    character(len=:), allocatable, intent(out) :: errmsg

    connection%num_inputs = int(model%num_inputs())
    connection%num_outputs = int(model%num_outputs())
    call connect_inputs(model, connection, errmsg)
    if (allocated(errmsg)) return
    call connect_outputs(model, connection, errmsg)
    if (allocated(errmsg)) return
    call read_ranges(model, margin, fallback, connection)
  end subroutine connect_model

  subroutine connect_inputs(model, connection, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(inout) :: connection
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=len(known_input_names)) :: names(connection%num_inputs)
    character(len=len(known_input_units)) :: units(connection%num_inputs)
    character(len=:), allocatable :: name, message
    integer :: i, j, stat

    ! What the host passes, in the model's own order: the library then compares the units.
    do i = 1, connection%num_inputs
      name = model%input_name(i)
      j = position(known_input_names, name)
      if (j == 0) then
        errmsg = "model input '"//name//"' is none that this host can make; it makes "//listed()
        return
      end if
      names(i) = known_input_names(j)
      units(i) = known_input_units(j)
      connection%input(j) = i
    end do
    call model%require_inputs(names, units, stat=stat, errmsg=message)
    if (stat /= 0) errmsg = message
  end subroutine connect_inputs

  subroutine connect_outputs(model, connection, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(inout) :: connection
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=64) :: names(connection%num_outputs), units(connection%num_outputs)
    character(len=:), allocatable :: head, message
    character(len=4) :: fn_name
    integer :: i, m, stat

    if (connection%num_outputs > max_outputs) then
      errmsg = 'the model has more outputs than this host has room for; it needs fn_1 to fn_4 or ln_smax, each with unit 1'
      return
    end if
    do i = 1, connection%num_outputs
      names(i) = model%output_name(i)
    end do
    units = '1'
    connection%ln_smax = position(names, 'ln_smax')
    if (connection%ln_smax > 0) then
      head = model%metadata('libemulator.head')
      call read_kelvin(head, connection%kelvin, message)
      if (allocated(message)) then
        errmsg = message
        return
      end if
    else
      do m = 1, num_modes
        write(fn_name, '(a, i0)') 'fn_', m
        connection%fn(m) = position(names, fn_name)
        if (connection%fn(m) == 0) then
          errmsg = "the model has no output '"//fn_name//"'; this host needs fn_1 to fn_4 or ln_smax, each with unit 1"
          return
        end if
      end do
    end if
    call model%require_outputs(names, units, stat=stat, errmsg=message)
    if (stat /= 0) errmsg = message
  end subroutine connect_outputs

  subroutine read_ranges(model, margin, fallback, connection)
    type(emulator_model), intent(in) :: model
    real(r8), intent(in) :: margin
    logical, intent(in) :: fallback
    type(connection_t), intent(inout) :: connection
    integer :: j

    do j = 1, num_known_inputs
      if (connection%input(j) == 0) cycle
      if (.not. is_nan(model%input_min(connection%input(j)))) then  ! every known input is a positive quantity
        connection%lowest(j) = model%input_min(connection%input(j))
        connection%low(j) = connection%lowest(j)*(1._r8 - margin)
      end if
      if (.not. is_nan(model%input_max(connection%input(j)))) then
        connection%highest(j) = model%input_max(connection%input(j))
        connection%high(j) = connection%highest(j)*(1._r8 + margin)
      end if
      if (.not. fallback .or. j == rh) cycle
      connection%largest(j) = connection%high(j)
      if (j > number .and. j <= number + num_modes) cycle  ! what is too few is for the emulator to decide
      if (j > kappa .and. connection%lowest(j) <= inert_kappa) cycle
      connection%least(j) = connection%low(j)
    end do
  end subroutine read_ranges

  !> Index of `name` in `names`, 0 if absent. (findloc of gfortran 12 fails for texts of different length; Cray's compiler
  !! has lost the result of a function that returns from within a loop, E3SM's issue 5012.)
  pure function position(names, name) result(found)
    character(len=*), intent(in) :: names(:), name
    integer :: found, i

    found = 0
    do i = 1, size(names)
      if (names(i) == name) then
        found = i
        exit
      end if
    end do
  end function position

  pure function listed()
    character(len=:), allocatable :: listed
    integer :: i

    listed = trim(known_input_names(1))
    do i = 2, num_known_inputs
      listed = listed//' '//trim(known_input_names(i))
    end do
  end function listed
end module aerosol_activation_connection
