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
  public :: chunk_t, answer_t, found_t, build_chunks, collect

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
  end type chunk_t

  !> What a scheme makes of a chunk.
  type :: answer_t
    real(r8), allocatable :: fn(:,:,:)          !! activated fraction of number, 1 (pcols, pver, num_modes)
    real(r8), allocatable :: fm(:,:,:)          !! activated fraction of mass, 1
    real(r8), allocatable :: fluxn(:,:,:)       !! flux of fn into cloud, m s-1
    real(r8), allocatable :: fluxm(:,:,:)       !! flux of fm into cloud, m s-1
    real(r8), allocatable :: flux_fullact(:,:)  !! flux if everything activated, m s-1 (pcols, pver)
    real(r8), allocatable :: nact(:,:)          !! activated number, all modes together, m-3
  contains
    procedure :: prepare
  end type answer_t

  !> The same, per sample.
  type :: found_t
    real(r8), allocatable, dimension(:,:) :: fn, fm, fluxn, fluxm   !! (num_modes, num_samples)
    real(r8), allocatable, dimension(:) :: flux_fullact, nact       !! (num_samples)
  end type found_t

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
  end subroutine allocate_chunk

  subroutine prepare(self, pcols, pver)
    class(answer_t), intent(inout) :: self
    integer, intent(in) :: pcols, pver
    real(r8) :: nan

    nan = signalling_nan()
    allocate(self%fn(pcols, pver, num_modes), self%fm(pcols, pver, num_modes), source=nan)
    allocate(self%fluxn(pcols, pver, num_modes), self%fluxm(pcols, pver, num_modes), source=nan)
    allocate(self%flux_fullact(pcols, pver), self%nact(pcols, pver), source=nan)
  end subroutine prepare

  !> Back from the grid to samples.
  subroutine collect(num_samples, chunks, answers, found)
    integer, intent(in) :: num_samples
    type(chunk_t), intent(in) :: chunks(:)
    type(answer_t), intent(in) :: answers(:)
    type(found_t), intent(out) :: found
    integer :: c, i, k, s

    allocate(found%fn(num_modes, num_samples))
    allocate(found%fm, found%fluxn, found%fluxm, mold=found%fn)
    allocate(found%flux_fullact(num_samples), found%nact(num_samples))
    do c = 1, size(chunks)
      do k = 1, size(chunks(c)%sample, 2)
        do i = 1, chunks(c)%ncol
          s = chunks(c)%sample(i, k)
          if (s == 0) cycle
          found%fn(:, s) = answers(c)%fn(i, k, :)
          found%fm(:, s) = answers(c)%fm(i, k, :)
          found%fluxn(:, s) = answers(c)%fluxn(i, k, :)
          found%fluxm(:, s) = answers(c)%fluxm(i, k, :)
          found%flux_fullact(s) = answers(c)%flux_fullact(i, k)
          found%nact(s) = answers(c)%nact(i, k)
        end do
      end do
    end do
  end subroutine collect

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
