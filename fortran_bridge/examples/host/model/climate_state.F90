!> The state of the columns of a chunk, and the tables that say what is in it: history and restart files follow them.
!!
!! As in E3SM's physics only columns `1:ncol` of a chunk hold data; the rest is signalling NaN, here and in work arrays.
module climate_state
  use aerosol_activation_constants, only: r8, num_modes
  use host_padding, only: signalling_nan, is_padding
  implicit none
  private
  public :: chunk_t, points_t, fractions_t, field_t, allocate_chunk, padding_is_intact
  public :: level_fields, column_fields, num_level_states, num_column_states

  type :: field_t
    character(len=12) :: name
    character(len=12) :: units
    character(len=96) :: long_name
  end type field_t

  !> Fields on levels: first those that make the state, then what is diagnosed anew in each step.
  integer, parameter :: num_level_states = 20
  type(field_t), parameter :: level_fields(*) = [ &
    field_t('T', 'K', 'air temperature'), &
    field_t('Q', 'kg kg-1', 'water vapour'), &
    field_t('QL', 'kg kg-1', 'cloud water, grid mean'), &
    field_t('CLOUD', '1', 'cloud fraction'), &
    field_t('NUM_A1', 'kg-1', 'number, interstitial, accumulation mode'), &
    field_t('NUM_A2', 'kg-1', 'number, interstitial, Aitken mode'), &
    field_t('NUM_A3', 'kg-1', 'number, interstitial, coarse mode'), &
    field_t('NUM_A4', 'kg-1', 'number, interstitial, primary carbon mode'), &
    field_t('VOL_A1', 'm3 kg-1', 'volume, interstitial, accumulation mode'), &
    field_t('VOL_A2', 'm3 kg-1', 'volume, interstitial, Aitken mode'), &
    field_t('VOL_A3', 'm3 kg-1', 'volume, interstitial, coarse mode'), &
    field_t('VOL_A4', 'm3 kg-1', 'volume, interstitial, primary carbon mode'), &
    field_t('NUM_C1', 'kg-1', 'number, in droplets, accumulation mode'), &
    field_t('NUM_C2', 'kg-1', 'number, in droplets, Aitken mode'), &
    field_t('NUM_C3', 'kg-1', 'number, in droplets, coarse mode'), &
    field_t('NUM_C4', 'kg-1', 'number, in droplets, primary carbon mode'), &
    field_t('VOL_C1', 'm3 kg-1', 'volume, in droplets, accumulation mode'), &
    field_t('VOL_C2', 'm3 kg-1', 'volume, in droplets, Aitken mode'), &
    field_t('VOL_C3', 'm3 kg-1', 'volume, in droplets, coarse mode'), &
    field_t('VOL_C4', 'm3 kg-1', 'volume, in droplets, primary carbon mode'), &
    field_t('W', 'm s-1', 'updraft speed'), &
    field_t('RH', '1', 'relative humidity over liquid, grid mean, as activation sees it'), &
    field_t('NUMLIQ', 'kg-1', 'droplet number, grid mean'), &
    field_t('NACT', 'kg-1', 'droplets activated in the step, grid mean'), &
    field_t('FN_GROW1', '1', 'activated fraction in growing cloud, mode 1; 0 where no cloud grows'), &
    field_t('FN_GROW2', '1', 'the same, mode 2'), &
    field_t('FN_GROW3', '1', 'the same, mode 3'), &
    field_t('FN_GROW4', '1', 'the same, mode 4'), &
    field_t('FN_BASE1', '1', 'activated fraction at the base of old cloud, mode 1; 0 where none is'), &
    field_t('FN_BASE2', '1', 'the same, mode 2'), &
    field_t('FN_BASE3', '1', 'the same, mode 3'), &
    field_t('FN_BASE4', '1', 'the same, mode 4'), &
    field_t('DFN1', '1', 'fn of the emulator less that of ARG at the last call, mode 1; 0 unless scheme is both'), &
    field_t('DFN2', '1', 'the same, mode 2'), &
    field_t('DFN3', '1', 'the same, mode 3'), &
    field_t('DFN4', '1', 'the same, mode 4')]

  !> Fields of a column; all are state, amounts are totals since the initial state.
  type(field_t), parameter :: column_fields(*) = [ &
    field_t('CIRC_X', '1', 'circulation: intensity'), &
    field_t('CIRC_Y', '1', 'circulation: temperature contrast'), &
    field_t('CIRC_Z', '1', 'circulation: distortion of the profile'), &
    field_t('PRECIP', 'kg m-2', 'rain'), &
    field_t('WATER_SRC', 'kg m-2', 'water from the surroundings'), &
    field_t('NUM_SRC1', 'm-2', 'particles from the surroundings, mode 1'), &
    field_t('NUM_SRC2', 'm-2', 'the same, mode 2'), &
    field_t('NUM_SRC3', 'm-2', 'the same, mode 3'), &
    field_t('NUM_SRC4', 'm-2', 'the same, mode 4'), &
    field_t('VOL_SRC1', 'm3 m-2', 'volume of particles from the surroundings, mode 1'), &
    field_t('VOL_SRC2', 'm3 m-2', 'the same, mode 2'), &
    field_t('VOL_SRC3', 'm3 m-2', 'the same, mode 3'), &
    field_t('VOL_SRC4', 'm3 m-2', 'the same, mode 4'), &
    field_t('NUM_WET1', 'm-2', 'particles removed by rain, mode 1'), &
    field_t('NUM_WET2', 'm-2', 'the same, mode 2'), &
    field_t('NUM_WET3', 'm-2', 'the same, mode 3'), &
    field_t('NUM_WET4', 'm-2', 'the same, mode 4'), &
    field_t('VOL_WET1', 'm3 m-2', 'volume of particles removed by rain, mode 1'), &
    field_t('VOL_WET2', 'm3 m-2', 'the same, mode 2'), &
    field_t('VOL_WET3', 'm3 m-2', 'the same, mode 3'), &
    field_t('VOL_WET4', 'm3 m-2', 'the same, mode 4')]
  integer, parameter :: num_column_states = size(column_fields)

  !> What activation gives, (ld[, num_modes]).
  type :: fractions_t
    real(r8), allocatable :: fn(:,:), fm(:,:)       !! activated fraction of number and of mass, 1
    real(r8), allocatable :: fluxn(:,:), fluxm(:,:) !! their fluxes into cloud, m s-1
    real(r8), allocatable :: flux_fullact(:)        !! flux if everything activated, m s-1
    real(r8), allocatable :: fn_difference(:,:)     !! emulator less ARG, 1
    real(r8), allocatable :: fm_difference(:,:)
  end type fractions_t

  !> Points of a chunk at which a site calls activation, gathered; rows beyond `n` are padding.
  type :: points_t
    integer :: n = 0
    integer, allocatable :: column(:), level(:)     !! where the point lies
    real(r8), allocatable :: w(:)                   !! updraft speed, m s-1
    real(r8), allocatable :: tair(:)                !! air temperature, K
    real(r8), allocatable :: rhoair(:)              !! air density, kg m-3
    real(r8), allocatable :: rh(:)                  !! relative humidity over liquid, 1
    real(r8), allocatable :: na(:,:)                !! number, m-3 (ld, num_modes)
    real(r8), allocatable :: volume(:,:)            !! volume, m3 m-3
    real(r8), allocatable :: hygro(:,:)             !! hygroscopicity, 1
    type(fractions_t) :: found                      !! by the scheme
    type(fractions_t) :: dropped                    !! by the reference scheme
    integer :: calls = 0                            !! of activation, on this chunk
  end type points_t

  type :: chunk_t
    integer :: ncol = 0                       !! columns that hold data
    integer, allocatable :: global(:)         !! column of the globe (ncol)
    real(r8), pointer, contiguous :: levels(:,:,:) => null()   !! level_fields (pcols, num_levels, field)
    real(r8), pointer, contiguous :: columns(:,:) => null()    !! column_fields (pcols, field)
    ! the same by name, (pcols, num_levels[, num_modes])
    real(r8), pointer, dimension(:,:) :: t, qv, ql, cloud, w, rh, numliq, nact
    real(r8), pointer, dimension(:,:,:) :: num_a, vol_a, num_c, vol_c, fn_grow, fn_base, dfn
    ! (pcols[, num_modes])
    real(r8), pointer, dimension(:) :: circulation_x, circulation_y, circulation_z, precipitation, water_source
    real(r8), pointer, dimension(:,:) :: num_source, vol_source, num_wet, vol_wet
    real(r8), allocatable :: cloud_before(:,:)  !! cloud fraction at the start of the step (pcols, num_levels)
    ! What distinguishes a column from others and never changes
    real(r8), allocatable :: phase(:)           !! of the daily wave, rad (pcols)
    real(r8), allocatable :: load(:)            !! aerosol of the surroundings over the mean, 1 (pcols)
    real(r8), allocatable :: radius(:,:)        !! its number-median dry radius, m (pcols, num_modes)
    real(r8), allocatable :: hygro(:,:)         !! hygroscopicity, 1 (pcols, num_modes)
    type(points_t) :: points
  contains
    final :: free_chunk
  end type chunk_t

contains

  !> Everything that lies in columns 1:ncol is set by who makes or reads the state; all else stays padding.
  subroutine allocate_chunk(chunk, columns, pcols, num_levels)
    type(chunk_t), intent(inout) :: chunk
    integer, intent(in) :: columns(:)  !! of the globe
    integer, intent(in) :: pcols, num_levels
    real(r8) :: nan

    nan = signalling_nan()
    chunk%ncol = size(columns)
    chunk%global = columns
    allocate(chunk%levels(pcols, num_levels, size(level_fields)), chunk%columns(pcols, num_column_states), source=nan)
    allocate(chunk%cloud_before(pcols, num_levels), source=nan)
    allocate(chunk%phase(pcols), chunk%load(pcols), source=nan)
    allocate(chunk%radius(pcols, num_modes), chunk%hygro(pcols, num_modes), source=nan)
    chunk%t => chunk%levels(:, :, 1)
    chunk%qv => chunk%levels(:, :, 2)
    chunk%ql => chunk%levels(:, :, 3)
    chunk%cloud => chunk%levels(:, :, 4)
    chunk%num_a => chunk%levels(:, :, 5:8)
    chunk%vol_a => chunk%levels(:, :, 9:12)
    chunk%num_c => chunk%levels(:, :, 13:16)
    chunk%vol_c => chunk%levels(:, :, 17:20)
    chunk%w => chunk%levels(:, :, 21)
    chunk%rh => chunk%levels(:, :, 22)
    chunk%numliq => chunk%levels(:, :, 23)
    chunk%nact => chunk%levels(:, :, 24)
    chunk%fn_grow => chunk%levels(:, :, 25:28)
    chunk%fn_base => chunk%levels(:, :, 29:32)
    chunk%dfn => chunk%levels(:, :, 33:36)
    chunk%circulation_x => chunk%columns(:, 1)
    chunk%circulation_y => chunk%columns(:, 2)
    chunk%circulation_z => chunk%columns(:, 3)
    chunk%precipitation => chunk%columns(:, 4)
    chunk%water_source => chunk%columns(:, 5)
    chunk%num_source => chunk%columns(:, 6:9)
    chunk%vol_source => chunk%columns(:, 10:13)
    chunk%num_wet => chunk%columns(:, 14:17)
    chunk%vol_wet => chunk%columns(:, 18:21)
    call allocate_points(chunk%points, pcols*num_levels, nan)
  end subroutine allocate_chunk

  !> Chunks are never copied, so that what one points at is its own.
  impure elemental subroutine free_chunk(chunk)
    type(chunk_t), intent(inout) :: chunk

    if (associated(chunk%levels)) deallocate(chunk%levels)
    if (associated(chunk%columns)) deallocate(chunk%columns)
  end subroutine free_chunk

  subroutine allocate_points(points, ld, nan)
    type(points_t), intent(inout) :: points
    integer, intent(in) :: ld
    real(r8), intent(in) :: nan

    allocate(points%column(ld), points%level(ld))
    allocate(points%w(ld), points%tair(ld), points%rhoair(ld), points%rh(ld), source=nan)
    allocate(points%na(ld, num_modes), points%volume(ld, num_modes), points%hygro(ld, num_modes), source=nan)
    call allocate_fractions(points%found, ld, nan)
    call allocate_fractions(points%dropped, ld, nan)
  end subroutine allocate_points

  subroutine allocate_fractions(fractions, ld, nan)
    type(fractions_t), intent(inout) :: fractions
    integer, intent(in) :: ld
    real(r8), intent(in) :: nan

    allocate(fractions%fn(ld, num_modes), fractions%fm(ld, num_modes), fractions%fluxn(ld, num_modes), source=nan)
    allocate(fractions%fluxm(ld, num_modes), fractions%flux_fullact(ld), source=nan)
    allocate(fractions%fn_difference(ld, num_modes), fractions%fm_difference(ld, num_modes), source=nan)
  end subroutine allocate_fractions

  !> Is all beyond `ncol` as it was allocated?
  pure logical function padding_is_intact(chunk)
    type(chunk_t), intent(in) :: chunk

    padding_is_intact = all(is_padding(chunk%levels(chunk%ncol + 1:, :, :))) .and. &
      all(is_padding(chunk%columns(chunk%ncol + 1:, :)))
  end function padding_is_intact
end module climate_state
