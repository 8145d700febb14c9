!> Activation over one chunk, level by level as `dropmixnuc` goes, by either scheme; and the model's check at start.
module host_physics
  use aerosol_activation_arg, only: activate_modal_arg, activate_number_arg, default_max_updraft
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_connection, only: connection_t, connect_activation => connect_model
  use aerosol_activation_mapping, only: emulator_inputs
  use host_state, only: chunk_t
  use libemulator, only: emulator_model
  implicit none
  private
  public :: connection_t, connect_model, activate_by_arg, activate_by_arg_number_only, activate_by_emulator

contains

  !> Where the model takes its inputs and gives each mode's fn. The checks are the drop-in's; this host compares the
  !! network itself with the parcel model, so that nothing is guarded and ln S_max is none of its outputs.
  subroutine connect_model(model, connection, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(out) :: connection
    character(len=:), allocatable, intent(out) :: errmsg

    call connect_activation(model, 0._r8, .false., connection, errmsg)
    if (allocated(errmsg)) return
    if (connection%ln_smax > 0) &
      errmsg = "the model gives ln_smax; this host needs fn_1 to fn_4: export it with its head"
  end subroutine connect_model

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
  subroutine activate_by_emulator(model, connection, batching, chunk, stat, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
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
          call infer_block(model, connection, pcols, pver, 1, i, 1, k, k, chunk, stat, errmsg)
          if (stat /= 0) return
        end do
      end do
    case ('level')
      do k = 1, pver
        call infer_block(model, connection, pcols, pver, pcols, 1, chunk%ncol, k, k, chunk, stat, errmsg)
        if (stat /= 0) return
      end do
    case ('chunk')
      call infer_block(model, connection, pcols, pver, pcols*pver, 1, chunk%ncol, 1, pver, chunk, stat, errmsg)
    end select
  end subroutine activate_by_emulator

  !> Columns `first` to `first + ncol - 1` at levels `k1` to `k2` in one call; `ldx` rows of work space are enough.
  subroutine infer_block(model, connection, pcols, pver, ldx, first, ncol, k1, k2, chunk, stat, errmsg)
    type(emulator_model), intent(in) :: model
    type(connection_t), intent(in) :: connection
    integer, intent(in) :: pcols, pver, ldx, first, ncol, k1, k2
    type(chunk_t), intent(inout) :: chunk
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: x(ldx, connection%num_inputs), y(ldx, connection%num_outputs)
    integer :: k, row, points

    do k = k1, k2
      call emulator_inputs(pcols, pver, first, ncol, k, chunk%t, chunk%rho, chunk%w, chunk%rh, chunk%na, chunk%volume, &
        chunk%hygro, connection%input, (k - k1)*ncol, ldx, x)
    end do
    points = (k2 - k1 + 1)*ncol
    call model%infer(x, y, ncol=points, stat=stat, errmsg=errmsg)
    if (stat /= 0) return
    do k = k1, k2
      row = (k - k1)*ncol + 1
      call keep(pcols, pver, first, ncol, k, ldx, row, connection%fn, y, chunk%na, chunk%fn_emulator, &
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
