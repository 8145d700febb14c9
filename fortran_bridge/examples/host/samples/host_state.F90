!> The host's grid: columns x levels, held in chunks as E3SM's physics holds them, in its units (SI).
!!
!! Consecutive samples fill a column from level 1 to `pver`, then the next column. Where samples end inside a
!! column the rest is filled by starting over at the first sample; those points run, and count for no error. The last
!! chunk may hold fewer than `pcols` columns: what is beyond `ncol` is signalling NaN, so that a scheme that touches
!! it is caught.
module host_state
  use aerosol_activation_constants, only: r8, num_modes, gas_constant_dry_air
  use aerosol_activation_mapping, only: mode_volume
  use host_padding, only: signalling_nan
  use host_samples, only: samples_t
  implicit none
  private
  public :: chunk_t, build_chunks

  type :: chunk_t
    integer :: ncol = 0                       !! columns that hold data
    integer, allocatable :: sample(:,:)       !! sample behind each point; 0: none, or a repeated one (pcols, pver)
    real(r8), allocatable :: t(:,:)           !! air temperature, K (pcols, pver)
    real(r8), allocatable :: rho(:,:)         !! air density, kg m-3
    real(r8), allocatable :: w(:,:)           !! updraft speed, m s-1
    real(r8), allocatable :: rh(:,:)          !! relative humidity over liquid, 1
    real(r8), allocatable :: na(:,:,:)        !! number, m-3 (pcols, pver, num_modes)
    real(r8), allocatable :: volume(:,:,:)    !! volume, m3 m-3
    real(r8), allocatable :: hygro(:,:,:)     !! hygroscopicity, 1
    real(r8), allocatable :: fn_arg(:,:,:)        !! activated fraction of number by ARG, 1
    real(r8), allocatable :: fn_emulator(:,:,:)   !! the same by the emulator
    real(r8), allocatable :: nact_arg(:,:)        !! activated number by ARG, m-3 (pcols, pver)
    real(r8), allocatable :: nact_emulator(:,:)   !! the same by the emulator
  end type chunk_t

contains

  subroutine build_chunks(samples, pcols, pver, chunks)
    type(samples_t), intent(in) :: samples
    integer, intent(in) :: pcols, pver
    type(chunk_t), allocatable, intent(out) :: chunks(:)
    integer :: num_columns, c, i, k, point

    num_columns = (samples%num_samples + pver - 1)/pver
    allocate(chunks((num_columns + pcols - 1)/pcols))
    do c = 1, size(chunks)
      call allocate_chunk(chunks(c), pcols, pver)
      chunks(c)%ncol = min(pcols, num_columns - (c - 1)*pcols)
      do k = 1, pver
        do i = 1, chunks(c)%ncol
          point = ((c - 1)*pcols + i - 1)*pver + k
          if (point <= samples%num_samples) chunks(c)%sample(i, k) = point
          call set_point(samples, 1 + mod(point - 1, samples%num_samples), chunks(c), i, k)
        end do
      end do
    end do
  end subroutine build_chunks

  subroutine allocate_chunk(chunk, pcols, pver)
    type(chunk_t), intent(inout) :: chunk
    integer, intent(in) :: pcols, pver
    real(r8) :: nan

    nan = signalling_nan()
    allocate(chunk%sample(pcols, pver), source=0)
    allocate(chunk%t(pcols, pver), chunk%rho(pcols, pver), chunk%w(pcols, pver), chunk%rh(pcols, pver), source=nan)
    allocate(chunk%na(pcols, pver, num_modes), chunk%volume(pcols, pver, num_modes), source=nan)
    allocate(chunk%hygro(pcols, pver, num_modes), source=nan)
    allocate(chunk%fn_arg(pcols, pver, num_modes), chunk%fn_emulator(pcols, pver, num_modes), source=nan)
    allocate(chunk%nact_arg(pcols, pver), chunk%nact_emulator(pcols, pver), source=nan)
  end subroutine allocate_chunk

  subroutine set_point(samples, s, chunk, i, k)
    type(samples_t), intent(in) :: samples
    integer, intent(in) :: s  !! sample
    type(chunk_t), intent(inout) :: chunk
    integer, intent(in) :: i, k
    integer :: m

    chunk%t(i, k) = samples%tair(s)
    chunk%rho(i, k) = 100._r8*samples%pressure(s)/(gas_constant_dry_air*samples%tair(s))
    chunk%w(i, k) = 0.01_r8*samples%wbar(s)
    chunk%rh(i, k) = samples%rh(s)
    do m = 1, num_modes
      chunk%na(i, k, m) = 1.e6_r8*samples%num_aer(m, s)
      chunk%volume(i, k, m) = mode_volume(m, chunk%na(i, k, m), 1.e-6_r8*samples%r_aer(m, s))
      chunk%hygro(i, k, m) = samples%kappa(m, s)
    end do
  end subroutine set_point
end module host_state
