!> What the columns live in: pressure levels, the profile and aerosol that the surroundings supply, and noise that
!! depends on seed, column, level and step alone, so that it needs no state and knows no layout.
module climate_environment
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8, num_modes, pi, gravity, gas_constant_dry_air, gas_constant_vapour
  use aerosol_activation_mapping, only: mode_volume
  use climate_state, only: chunk_t
  implicit none
  private
  public :: environment_t, make_environment, describe_columns, set_initial_state
  public :: saturation, background_number, background_volume, normal_noise

  type :: environment_t
    integer :: num_levels = 0, seed = 0
    real(r8) :: mass = 0._r8                 !! of a layer; all weigh the same, kg m-2
    real(r8), allocatable :: pressure(:)     !! Pa, from the top down (num_levels)
    real(r8), allocatable :: t(:), q(:)      !! temperature, K, and vapour, kg kg-1, of the surroundings
    real(r8), allocatable :: depth(:)        !! shape of the circulation: 0 at its ends, 1 in the middle
    real(r8), allocatable :: number(:,:)     !! mean number of the surroundings, kg-1 (num_levels, num_modes)
  end type environment_t

  real(r8), parameter :: top = 500.e2_r8, surface = 1000.e2_r8  !! Pa
  real(r8), parameter :: surface_number(num_modes) = [2.e8_r8, 5.e8_r8, 4.e5_r8, 1.e8_r8]      !! kg-1
  real(r8), parameter :: mean_radius(num_modes) = [0.06e-6_r8, 0.014e-6_r8, 0.9e-6_r8, 0.03e-6_r8]  !! m
  real(r8), parameter :: least_hygro(num_modes) = [0.2_r8, 0.2_r8, 0.5_r8, 1.e-3_r8]
  real(r8), parameter :: largest_hygro(num_modes) = [0.6_r8, 0.5_r8, 1.1_r8, 0.05_r8]

contains

  pure function make_environment(num_levels, seed) result(e)
    integer, intent(in) :: num_levels, seed
    type(environment_t) :: e
    real(r8) :: rh
    integer :: k

    e%num_levels = num_levels
    e%seed = seed
    e%mass = (surface - top)/(gravity*num_levels)
    allocate(e%pressure(num_levels), e%t(num_levels), e%q(num_levels), e%depth(num_levels))
    allocate(e%number(num_levels, num_modes))
    do k = 1, num_levels
      e%pressure(k) = top + (surface - top)*(k - 0.5_r8)/num_levels
      e%t(k) = 289._r8*(e%pressure(k)/surface)**0.19_r8   ! about the moist adiabat
      rh = 0.97_r8 - 0.35_r8*((surface - e%pressure(k))/(surface - top))**2
      e%q(k) = rh*saturation(e%t(k), e%pressure(k))
      e%depth(k) = sin(pi*(k - 0.5_r8)/num_levels)
      e%number(k, :) = surface_number*exp((e%pressure(k) - surface)/250.e2_r8)
    end do
  end function make_environment

  !> Fill what never changes in the columns of a chunk.
  pure subroutine describe_columns(e, chunk)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(inout) :: chunk
    integer :: i, m

    do i = 1, chunk%ncol
      associate (g => chunk%global(i))
        chunk%phase(i) = 2._r8*pi*uniform_noise(e%seed, g, 0, 1)
        chunk%load(i) = 0.2_r8*20._r8**uniform_noise(e%seed, g, 0, 2)   ! from clean sea to polluted land
        do m = 1, num_modes
          chunk%radius(i, m) = mean_radius(m)*(0.8_r8 + 0.4_r8*uniform_noise(e%seed, g, m, 3))
          chunk%hygro(i, m) = least_hygro(m) + (largest_hygro(m) - least_hygro(m))*uniform_noise(e%seed, g, m, 4)
        end do
      end associate
    end do
  end subroutine describe_columns

  !> The surroundings, cloudless, with a column's own circulation; `pertlim` disturbs the temperature as E3SM's does.
  pure subroutine set_initial_state(e, pertlim, chunk)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: pertlim
    type(chunk_t), intent(inout) :: chunk
    integer :: i, k, m

    do i = 1, chunk%ncol
      chunk%levels(i, :, :) = 0._r8
      chunk%columns(i, :) = 0._r8
      associate (g => chunk%global(i))
        chunk%circulation_x(i) = 10._r8*(uniform_noise(e%seed, g, 0, 5) - 0.5_r8)
        chunk%circulation_y(i) = 10._r8*(uniform_noise(e%seed, g, 0, 6) - 0.5_r8)
        chunk%circulation_z(i) = 25._r8
        do k = 1, e%num_levels
          chunk%t(i, k) = e%t(k)*(1._r8 + pertlim*(2._r8*uniform_noise(e%seed, g, k, 7) - 1._r8))
        end do
      end associate
      do k = 1, e%num_levels
        chunk%qv(i, k) = e%q(k)
        do m = 1, num_modes
          chunk%num_a(i, k, m) = background_number(e, chunk%load(i), k, m)
          chunk%vol_a(i, k, m) = background_volume(e, chunk%load(i), chunk%radius(i, m), k, m)
        end do
      end do
    end do
  end subroutine set_initial_state

  !> Particles of the surroundings, kg-1.
  pure real(r8) function background_number(e, load, k, m)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: load  !! of the column
    integer, intent(in) :: k, m

    background_number = load*e%number(k, m)
  end function background_number

  !> Their volume, m3 kg-1.
  pure real(r8) function background_volume(e, load, radius, k, m)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: load, radius  !! of the column; m
    integer, intent(in) :: k, m

    background_volume = mode_volume(m, background_number(e, load, k, m), radius)
  end function background_volume

  !> Specific humidity at saturation over liquid, kg kg-1 (vapour pressure: Bolton 1980, Eq. 10).
  pure real(r8) function saturation(t, pressure)
    real(r8), intent(in) :: t, pressure  !! K, Pa
    real(r8), parameter :: epsilon_water = gas_constant_dry_air/gas_constant_vapour
    real(r8) :: es

    es = 611.2_r8*exp(17.67_r8*(t - 273.15_r8)/(t - 29.65_r8))
    saturation = epsilon_water*es/(pressure - (1._r8 - epsilon_water)*es)
  end function saturation

  !> Number in (0, 1) that belongs to a seed and three indices: rounds of the generator of Park & Miller (1988), which
  !! no product of two 31-bit numbers overflows.
  pure real(r8) function uniform_noise(seed, a, b, c)
    integer, intent(in) :: seed, a, b, c
    integer(int64), parameter :: modulus = 2147483647_int64
    integer(int64) :: x

    x = 1_int64 + seed
    x = scrambled(x + 69621_int64*a)
    x = scrambled(x + 40692_int64*b)
    x = scrambled(x + 48271_int64*c)
    uniform_noise = real(x, r8)/real(modulus, r8)

  contains

    pure integer(int64) function scrambled(y)
      integer(int64), intent(in) :: y
      integer :: round

      scrambled = 1 + modulo(y, modulus - 1)
      do round = 1, 3
        scrambled = mod(16807_int64*scrambled, modulus)
        scrambled = 1 + mod(ieor(scrambled, shiftr(scrambled, 15)), modulus - 1)
      end do
    end function scrambled
  end function uniform_noise

  !> The same with mean 0 and standard deviation 1 (Box & Muller 1958).
  pure real(r8) function normal_noise(seed, a, b, c)
    integer, intent(in) :: seed, a, b, c

    normal_noise = sqrt(-2._r8*log(uniform_noise(seed, a, b, c)))*cos(2._r8*pi*uniform_noise(seed, a, b, -c))
  end function normal_noise
end module climate_environment
