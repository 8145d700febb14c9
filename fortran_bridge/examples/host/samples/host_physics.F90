!> Activation over one chunk, level by level as `dropmixnuc` goes, by either scheme; and the model's check at start.
module host_physics
  use aerosol_activation_arg, only: activate_modal_arg, activate_number_arg, default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_mapping, only: emulator_inputs, num_known_inputs, known_input_names, known_input_units
  use host_state, only: chunk_t
  use libemulator, only: emulator_model
  implicit none
  private
  public :: columns_t, connect_model, activate_by_arg, activate_by_arg_number_only, activate_by_emulator

  !> Where the model wants each input that the host can make, and where it gives each mode's fn.
  type :: columns_t
    integer :: num_inputs = 0, num_outputs = 0
    integer :: input(num_known_inputs) = 0  !! 0: the model does not take it
    integer :: fn(num_modes) = 0
  end type columns_t

contains

  !> Check names and units of the model's inputs and outputs, and find their columns. Any order of them is served.
  subroutine connect_model(model, columns, errmsg)
    type(emulator_model), intent(in) :: model
    type(columns_t), intent(out) :: columns
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=:), allocatable :: message
    character(len=64), allocatable :: names(:), units(:)
    character(len=4) :: fn_name
    integer :: i, j, stat

    columns%num_inputs = int(model%num_inputs())
    columns%num_outputs = int(model%num_outputs())
    ! What the host would pass, in the model's own order where it knows the name: the library then compares.
    allocate(names(columns%num_inputs), units(columns%num_inputs))
    do i = 1, size(names)
      j = position(known_input_names, model%input_name(i))
      if (j == 0) then
        errmsg = "model input '"//model%input_name(i)//"' is none that this host can make; it makes"//listed()
        return
      end if
      names(i) = known_input_names(j)
      units(i) = known_input_units(j)
      columns%input(j) = i
    end do
    call model%require_inputs(names, units, stat=stat, errmsg=message)
    if (stat /= 0) then
      errmsg = message
      return
    end if

    deallocate(names, units)
    allocate(names(columns%num_outputs), units(columns%num_outputs))
    do i = 1, size(names)
      names(i) = model%output_name(i)
      units(i) = '1'
    end do
    do i = 1, num_modes
      write(fn_name, '(a, i0)') 'fn_', i
      columns%fn(i) = position(names, fn_name)
      if (columns%fn(i) == 0) then
        errmsg = "the model has no output '"//fn_name//"'; this host needs fn_1 to fn_4, each with unit 1"
        return
      end if
    end do
    call model%require_outputs(names, units, stat=stat, errmsg=message)
    if (stat /= 0) errmsg = message
  end subroutine connect_model

  !> Index of `name` in `names`, 0 if absent. (findloc of gfortran 12 fails for texts of different length.)
  pure integer function position(names, name)
    character(len=*), intent(in) :: names(:), name

    do position = 1, size(names)
      if (names(position) == name) return
    end do
    position = 0
  end function position

  function listed()
    character(len=:), allocatable :: listed
    integer :: i

    listed = ''
    do i = 1, num_known_inputs
      listed = listed//' '//trim(known_input_names(i))
    end do
  end function listed

  !> E3SM's way: one call per point, every output of the routine.
  subroutine activate_by_arg(chunk)
    type(chunk_t), intent(inout) :: chunk
    real(r8), dimension(num_modes) :: na, volume, hygro, fn, fm, fluxn, fluxm
    real(r8) :: flux_fullact
    integer :: i, k

    do k = 1, size(chunk%t, 2)
      do i = 1, chunk%ncol
        na = chunk%na(i, k, :)
        volume = chunk%volume(i, k, :)
        hygro = chunk%hygro(i, k, :)
        call activate_modal_arg(chunk%w(i, k), default_max_updraft, chunk%t(i, k), chunk%rho(i, k), na, num_modes, &
          volume, hygro, fn, fm, fluxn, fluxm, flux_fullact)
        chunk%fn_arg(i, k, :) = fn
        chunk%nact_arg(i, k) = sum(fn*na)
      end do
    end do
  end subroutine activate_by_arg

  !> ARG without mass fractions and fluxes, a level at a time: what the emulator gives, no more.
  subroutine activate_by_arg_number_only(chunk)
    type(chunk_t), intent(inout) :: chunk
    real(r8), dimension(size(chunk%t, 1), num_modes) :: na, volume, hygro, fn
    integer :: i, k, m, ncol

    ncol = chunk%ncol
    do k = 1, size(chunk%t, 2)
      do m = 1, num_modes
        do i = 1, ncol
          na(i, m) = chunk%na(i, k, m)
          volume(i, m) = chunk%volume(i, k, m)
          hygro(i, m) = chunk%hygro(i, k, m)
        end do
      end do
      call activate_number_arg(size(chunk%t, 1), ncol, chunk%w(:, k), chunk%t(:, k), chunk%rho(:, k), na, volume, &
        hygro, fn)
      do i = 1, ncol
        chunk%fn_arg(i, k, :) = fn(i, :)
        chunk%nact_arg(i, k) = sum(fn(i, :)*na(i, :))
      end do
    end do
  end subroutine activate_by_arg_number_only

  !> The emulator over a chunk, in calls of one point, one level or the whole chunk. `stat` is the library's.
  subroutine activate_by_emulator(model, columns, batching, chunk, stat, errmsg)
    type(emulator_model), intent(in) :: model
    type(columns_t), intent(in) :: columns
    character(len=*), intent(in) :: batching  !! 'point', 'level' or 'chunk'
    type(chunk_t), intent(inout) :: chunk
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: i, k, pcols, pver

    pcols = size(chunk%t, 1)
    pver = size(chunk%t, 2)
    stat = 0
    select case (batching)
    case ('point')
      do k = 1, pver
        do i = 1, chunk%ncol
          call infer_block(model, columns, pcols, pver, 1, i, 1, k, k, chunk, stat, errmsg)
          if (stat /= 0) return
        end do
      end do
    case ('level')
      do k = 1, pver
        call infer_block(model, columns, pcols, pver, pcols, 1, chunk%ncol, k, k, chunk, stat, errmsg)
        if (stat /= 0) return
      end do
    case ('chunk')
      call infer_block(model, columns, pcols, pver, pcols*pver, 1, chunk%ncol, 1, pver, chunk, stat, errmsg)
    end select
  end subroutine activate_by_emulator

  !> Columns `first` to `first + ncol - 1` at levels `k1` to `k2` in one call; `ldx` rows of work space are enough.
  subroutine infer_block(model, columns, pcols, pver, ldx, first, ncol, k1, k2, chunk, stat, errmsg)
    type(emulator_model), intent(in) :: model
    type(columns_t), intent(in) :: columns
    integer, intent(in) :: pcols, pver, ldx, first, ncol, k1, k2
    type(chunk_t), intent(inout) :: chunk
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: x(ldx, columns%num_inputs), y(ldx, columns%num_outputs)
    integer :: k, row, points

    do k = k1, k2
      call emulator_inputs(pcols, pver, first, ncol, k, chunk%t, chunk%rho, chunk%w, chunk%rh, chunk%na, chunk%volume, &
        chunk%hygro, columns%input, (k - k1)*ncol, ldx, x)
    end do
    points = (k2 - k1 + 1)*ncol
    call model%infer(x, y, ncol=points, stat=stat, errmsg=errmsg)
    if (stat /= 0) return
    do k = k1, k2
      row = (k - k1)*ncol + 1
      call keep(pcols, pver, first, ncol, k, ldx, row, columns%fn, y, chunk%na, chunk%fn_emulator, &
        chunk%nact_emulator)
    end do
  end subroutine infer_block

  !> Scatter one level's fn from rows `row` on of the emulator's output, and form the activated number.
  pure subroutine keep(pcols, pver, first, ncol, level, ldy, row, fn_columns, y, na, fn, nact)
    integer, intent(in) :: pcols, pver, first, ncol, level, ldy, row, fn_columns(num_modes)
    real(r8), intent(in) :: y(ldy, *), na(pcols, pver, num_modes)
    real(r8), intent(inout) :: fn(pcols, pver, num_modes), nact(pcols, pver)
    integer :: i, m
    real(r8) :: total(ncol)

    total = 0._r8
    do m = 1, num_modes
      do i = 1, ncol
        fn(first + i - 1, level, m) = y(row + i - 1, fn_columns(m))
        total(i) = total(i) + y(row + i - 1, fn_columns(m))*na(first + i - 1, level, m)
      end do
    end do
    nact(first:first + ncol - 1, level) = total
  end subroutine keep
end module host_physics
