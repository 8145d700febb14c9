!> Activation over one chunk by a scheme, ARG or an emulator, through the drop-in's interface: what a host calls.
module host_physics
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_emulator, only: activation_emulator, activation_counters, activate_modal_emulator, &
    default_max_updraft
  use host_padding, only: signalling_nan
  use host_state, only: chunk_t, answer_t
  implicit none
  private
  public :: activate_chunk

  !> Points side by side, as `activate` takes them; what is beyond those in use is signalling NaN.
  type :: block_t
    integer :: ld = 0
    real(r8), allocatable, dimension(:) :: w, t, rho, rh, flux_fullact                    !! (ld)
    real(r8), allocatable, dimension(:,:) :: na, volume, hygro, fn, fm, fluxn, fluxm      !! (ld, num_modes)
  end type block_t

contains

  !> Every output of the chunk's points. `stat` and `errmsg` are the drop-in's.
  subroutine activate_chunk(by, batching, chunk, answer, stat, errmsg, counters)
    type(activation_emulator), intent(in) :: by
    character(len=*), intent(in) :: batching  !! points per call: 'point', 'level' or 'chunk'
    type(chunk_t), intent(in) :: chunk
    type(answer_t), intent(inout) :: answer
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    type(activation_counters), intent(inout), optional :: counters
    type(block_t) :: block
    integer :: k, pcols, pver

    pcols = size(chunk%t, 1)
    pver = size(chunk%t, 2)
    stat = 0
    select case (batching)
    case ('point')
      call activate_points(by, chunk, answer, stat, errmsg, counters)
    case ('level')
      call prepare(block, pcols)
      do k = 1, pver
        call activate_levels(by, chunk, k, k, block, answer, stat, errmsg, counters)
        if (stat /= 0) return
      end do
    case ('chunk')
      call prepare(block, pcols*pver)
      call activate_levels(by, chunk, 1, pver, block, answer, stat, errmsg, counters)
    end select
  end subroutine activate_chunk

  !> E3SM's way: a call per point, under the arguments of its own routine.
  subroutine activate_points(by, chunk, answer, stat, errmsg, counters)
    type(activation_emulator), intent(in) :: by
    type(chunk_t), intent(in) :: chunk
    type(answer_t), intent(inout) :: answer
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    type(activation_counters), intent(inout), optional :: counters
    real(r8), dimension(num_modes) :: na, volume, hygro, fn, fm, fluxn, fluxm
    integer :: i, k

    stat = 0
    do k = 1, size(chunk%t, 2)
      do i = 1, chunk%ncol
        na = chunk%na(i, k, :)
        volume = chunk%volume(i, k, :)
        hygro = chunk%hygro(i, k, :)
        call activate_modal_emulator(chunk%w(i, k), default_max_updraft, chunk%t(i, k), chunk%rho(i, k), na, &
          num_modes, volume, hygro, fn, fm, fluxn, fluxm, answer%flux_fullact(i, k), rh=chunk%rh(i, k), emulator=by, &
          counters=counters, stat=stat, errmsg=errmsg)
        if (stat /= 0) return
        answer%fn(i, k, :) = fn
        answer%fm(i, k, :) = fm
        answer%fluxn(i, k, :) = fluxn
        answer%fluxm(i, k, :) = fluxm
        answer%nact(i, k) = sum(fn*na)
      end do
    end do
  end subroutine activate_points

  !> Levels `first` to `last` in one call.
  subroutine activate_levels(by, chunk, first, last, block, answer, stat, errmsg, counters)
    type(activation_emulator), intent(in) :: by
    type(chunk_t), intent(in) :: chunk
    integer, intent(in) :: first, last
    type(block_t), intent(inout) :: block
    type(answer_t), intent(inout) :: answer
    integer, intent(out) :: stat
    character(len=:), allocatable, intent(inout) :: errmsg
    type(activation_counters), intent(inout), optional :: counters
    integer :: k, m, n, num_points

    n = chunk%ncol
    do k = first, last
      associate (row => (k - first)*n)
        block%w(row + 1:row + n) = chunk%w(:n, k)
        block%t(row + 1:row + n) = chunk%t(:n, k)
        block%rho(row + 1:row + n) = chunk%rho(:n, k)
        block%rh(row + 1:row + n) = chunk%rh(:n, k)
        do m = 1, num_modes
          block%na(row + 1:row + n, m) = chunk%na(:n, k, m)
          block%volume(row + 1:row + n, m) = chunk%volume(:n, k, m)
          block%hygro(row + 1:row + n, m) = chunk%hygro(:n, k, m)
        end do
      end associate
    end do
    num_points = (last - first + 1)*n
    call by%activate(block%ld, num_points, num_modes, block%w, default_max_updraft, block%t, block%rho, block%na, &
      block%volume, block%hygro, block%fn, block%fm, stat, rh=block%rh, fluxn=block%fluxn, fluxm=block%fluxm, &
      flux_fullact=block%flux_fullact, counters=counters, errmsg=errmsg)
    if (stat /= 0) return
    do k = first, last
      associate (row => (k - first)*n)
        answer%flux_fullact(:n, k) = block%flux_fullact(row + 1:row + n)
        answer%nact(:n, k) = 0._r8
        do m = 1, num_modes
          answer%fn(:n, k, m) = block%fn(row + 1:row + n, m)
          answer%fm(:n, k, m) = block%fm(row + 1:row + n, m)
          answer%fluxn(:n, k, m) = block%fluxn(row + 1:row + n, m)
          answer%fluxm(:n, k, m) = block%fluxm(row + 1:row + n, m)
          answer%nact(:n, k) = answer%nact(:n, k) + block%fn(row + 1:row + n, m)*block%na(row + 1:row + n, m)
        end do
      end associate
    end do
  end subroutine activate_levels

  subroutine prepare(block, ld)
    type(block_t), intent(inout) :: block
    integer, intent(in) :: ld
    real(r8) :: nan

    nan = signalling_nan()
    block%ld = ld
    allocate(block%w(ld), block%t(ld), block%rho(ld), block%rh(ld), block%flux_fullact(ld), source=nan)
    allocate(block%na(ld, num_modes), block%volume(ld, num_modes), block%hygro(ld, num_modes), source=nan)
    allocate(block%fn(ld, num_modes), block%fm(ld, num_modes), block%fluxn(ld, num_modes), block%fluxm(ld, num_modes), &
      source=nan)
  end subroutine prepare
end module host_physics
