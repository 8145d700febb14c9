!> One time step of one chunk: circulation, clouds, activation at two call sites as in E3SM's `dropmixnuc`, rain, and
!! the exchange of aerosol with the surroundings. What moves between droplets, air, levels and rain is conserved.
!!
!! No column knows of another, and what is computed for a column does not depend on its place in the chunk.
module climate_physics
  use aerosol_activation_constants, only: r8, num_modes, pi, gas_constant_dry_air
  use aerosol_activation_emulator, only: relative_humidity
  use aerosol_activation_mapping, only: mode_volume
  use climate_activation, only: activation_t, tally_t, activate
  use climate_clouds, only: condense, rain_fraction, circulate
  use climate_environment, only: environment_t, background_number, background_volume, normal_noise
  use climate_state, only: chunk_t, points_t
  implicit none
  private
  public :: step_chunk

  real(r8), parameter :: least_change = 0.01_r8       !! of cloud fraction that counts: E3SM's
  real(r8), parameter :: least_updraft = 0.1_r8, largest_updraft = 10._r8   !! m s-1, E3SM's
  real(r8), parameter :: day = 86400._r8              !! s
  real(r8), parameter :: heat_time = 3._r8*3600._r8, water_time = 6._r8*3600._r8, aerosol_time = day  !! s
  real(r8), parameter :: mixing = 0.05_r8             !! share that neighbouring layers exchange in a step
  !> Bounds of the number-median dry radius that E3SM holds a mode to by its number, m.
  real(r8), parameter :: least_radius(num_modes) = [0.02675e-6_r8, 0.00435e-6_r8, 0.5e-6_r8, 0.005e-6_r8]
  real(r8), parameter :: largest_radius(num_modes) = [0.22e-6_r8, 0.026e-6_r8, 2.e-6_r8, 0.05e-6_r8]

contains

  !> On failure `errmsg` is allocated; the chunk is then worth nothing.
  subroutine step_chunk(e, activation, time_step, step, chunk, tally, errmsg)
    type(environment_t), intent(in) :: e
    type(activation_t), intent(in) :: activation
    real(r8), intent(in) :: time_step  !! s
    integer, intent(in) :: step        !! counted from the initial state
    type(chunk_t), intent(inout) :: chunk
    type(tally_t), intent(inout) :: tally
    character(len=:), allocatable, intent(inout) :: errmsg

    call drive(e, time_step, step, chunk)
    call form_clouds(e, chunk)
    call release_from_shrinking_cloud(e, chunk)
    call gather_growing_cloud(e, chunk)
    call activate(activation, chunk%points, tally, errmsg)
    if (allocated(errmsg)) return
    call activate_growing_cloud(chunk)
    call gather_cloud_bases(e, chunk)
    call activate(activation, chunk%points, tally, errmsg)
    if (allocated(errmsg)) return
    call exchange_at_cloud_bases(e, time_step, chunk)
    call rain(e, time_step, chunk)
    call mix_aerosol(e, time_step, chunk)
  end subroutine step_chunk

  !> Circulation, updraft, and heat and vapour from the surroundings.
  subroutine drive(e, time_step, step, chunk)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: time_step
    integer, intent(in) :: step
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: path, wave, target_t, before, turbulence
    integer :: i, k

    do i = 1, chunk%ncol
      path = 0._r8
      do k = 1, e%num_levels
        path = path + chunk%ql(i, k)*e%mass
      end do
      call circulate(time_step, path/(path + 1._r8), chunk%circulation_x(i), chunk%circulation_y(i), &
        chunk%circulation_z(i))
      wave = sin(2._r8*pi*step*time_step/day + chunk%phase(i)) + 0.06_r8*chunk%circulation_x(i)
      do k = 1, e%num_levels
        turbulence = exp(0.4_r8*normal_noise(e%seed, chunk%global(i), k, step))
        chunk%w(i, k) = min(largest_updraft, max(least_updraft, &
          (0.15_r8 + 0.04_r8*abs(chunk%circulation_x(i)))*e%depth(k)*turbulence))
        target_t = e%t(k) - 3._r8*wave*e%depth(k)
        chunk%t(i, k) = chunk%t(i, k) + (1._r8 - exp(-time_step/heat_time))*(target_t - chunk%t(i, k))
        before = chunk%qv(i, k)
        chunk%qv(i, k) = before + (1._r8 - exp(-time_step/water_time))*(e%q(k) - before)
        chunk%water_source(i) = chunk%water_source(i) + (chunk%qv(i, k) - before)*e%mass
      end do
    end do
  end subroutine drive

  subroutine form_clouds(e, chunk)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(inout) :: chunk
    integer :: i, k

    do i = 1, chunk%ncol
      do k = 1, e%num_levels
        chunk%cloud_before(i, k) = chunk%cloud(i, k)
        call condense(e%pressure(k), chunk%t(i, k), chunk%qv(i, k), chunk%ql(i, k), chunk%cloud(i, k))
        chunk%rh(i, k) = relative_humidity(chunk%qv(i, k), chunk%t(i, k), e%pressure(k))
        chunk%nact(i, k) = 0._r8
        chunk%fn_grow(i, k, :) = 0._r8
        chunk%fn_base(i, k, :) = 0._r8
        chunk%dfn(i, k, :) = 0._r8
      end do
    end do
  end subroutine form_clouds

  !> Droplets of cloud that is gone give their particles back to the air.
  subroutine release_from_shrinking_cloud(e, chunk)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: share
    integer :: i, k, m

    do i = 1, chunk%ncol
      do k = 1, e%num_levels
        if (chunk%cloud(i, k) >= chunk%cloud_before(i, k)) cycle
        share = 1._r8 - chunk%cloud(i, k)/chunk%cloud_before(i, k)
        do m = 1, num_modes
          call move(share*chunk%num_c(i, k, m), chunk%num_c(i, k, m), chunk%num_a(i, k, m))
          call move(share*chunk%vol_c(i, k, m), chunk%vol_c(i, k, m), chunk%vol_a(i, k, m))
        end do
      end do
    end do
  end subroutine release_from_shrinking_cloud

  subroutine gather_growing_cloud(e, chunk)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(inout) :: chunk
    integer :: i, k

    chunk%points%n = 0
    do k = 1, e%num_levels
      do i = 1, chunk%ncol
        if (chunk%cloud(i, k) - chunk%cloud_before(i, k) > least_change) call gather(e, i, k, k, chunk, chunk%points)
      end do
    end do
  end subroutine gather_growing_cloud

  !> Where cloud lies on air with less of it: aerosol from the level below, temperature and density from the cloud's.
  subroutine gather_cloud_bases(e, chunk)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(inout) :: chunk
    integer :: i, k

    chunk%points%n = 0
    do k = 1, e%num_levels
      do i = 1, chunk%ncol
        if (base_fraction(e, chunk, i, k) > least_change) &
          call gather(e, i, k, min(k + 1, e%num_levels), chunk, chunk%points)
      end do
    end do
  end subroutine gather_cloud_bases

  !> Share of the area in which cloud of level k has its base there; that of the lowest level rests on the ground.
  pure real(r8) function base_fraction(e, chunk, i, k)
    type(environment_t), intent(in) :: e
    type(chunk_t), intent(in) :: chunk
    integer, intent(in) :: i, k

    base_fraction = chunk%cloud(i, k)
    if (k < e%num_levels) base_fraction = base_fraction - chunk%cloud(i, k + 1)
  end function base_fraction

  !> Add a point. Numbers are held to the bounds of the modes' radii as E3SM's `loadaer` does; the state keeps its own.
  subroutine gather(e, i, k, aerosol_level, chunk, points)
    type(environment_t), intent(in) :: e
    integer, intent(in) :: i, k, aerosol_level
    type(chunk_t), intent(in) :: chunk
    type(points_t), intent(inout) :: points
    real(r8) :: rho, volume
    integer :: m, n

    n = points%n + 1
    points%n = n
    points%column(n) = i
    points%level(n) = k
    points%w(n) = chunk%w(i, k)
    points%tair(n) = chunk%t(i, k)
    points%rhoair(n) = e%pressure(k)/(gas_constant_dry_air*chunk%t(i, k))
    points%rh(n) = chunk%rh(i, k)
    rho = e%pressure(aerosol_level)/(gas_constant_dry_air*chunk%t(i, aerosol_level))
    do m = 1, num_modes
      volume = rho*chunk%vol_a(i, aerosol_level, m)
      points%volume(n, m) = volume
      points%na(n, m) = max(volume/mode_volume(m, 1._r8, largest_radius(m)), &
        min(volume/mode_volume(m, 1._r8, least_radius(m)), rho*chunk%num_a(i, aerosol_level, m)))
      points%hygro(n, m) = chunk%hygro(i, m)
    end do
  end subroutine gather

  subroutine activate_growing_cloud(chunk)
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: growth, number
    integer :: n, i, k, m

    do n = 1, chunk%points%n
      i = chunk%points%column(n)
      k = chunk%points%level(n)
      growth = chunk%cloud(i, k) - chunk%cloud_before(i, k)
      do m = 1, num_modes
        number = growth*chunk%points%found%fn(n, m)*chunk%num_a(i, k, m)
        call move(number, chunk%num_a(i, k, m), chunk%num_c(i, k, m))
        call move(growth*chunk%points%found%fm(n, m)*chunk%vol_a(i, k, m), chunk%vol_a(i, k, m), chunk%vol_c(i, k, m))
        chunk%nact(i, k) = chunk%nact(i, k) + number
        chunk%fn_grow(i, k, m) = chunk%points%found%fn(n, m)
        chunk%dfn(i, k, m) = chunk%points%found%fn_difference(n, m)
      end do
    end do
  end subroutine activate_growing_cloud

  !> Air passes the base both ways: upwards the activated share of its aerosol becomes droplets, downwards droplets
  !! evaporate. With the fluxes F of activation and E the exchanged share of a layer, the droplets tend to F_n/F_full
  !! times the aerosol below.
  subroutine exchange_at_cloud_bases(e, time_step, chunk)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: time_step
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: share, up, down, number
    integer :: n, i, k, below, m

    do n = 1, chunk%points%n
      if (.not. chunk%points%found%flux_fullact(n) > 0._r8) cycle
      i = chunk%points%column(n)
      k = chunk%points%level(n)
      below = min(k + 1, e%num_levels)
      share = 0.5_r8*(1._r8 - exp(-2._r8*base_fraction(e, chunk, i, k)*chunk%points%rhoair(n)* &
        chunk%points%found%flux_fullact(n)*time_step/e%mass))
      do m = 1, num_modes
        up = share*chunk%points%found%fluxn(n, m)/chunk%points%found%flux_fullact(n)
        down = share
        number = up*chunk%num_a(i, below, m)
        call move(number - down*chunk%num_c(i, k, m), chunk%num_a(i, below, m), chunk%num_c(i, k, m))
        up = share*chunk%points%found%fluxm(n, m)/chunk%points%found%flux_fullact(n)
        call move(up*chunk%vol_a(i, below, m) - down*chunk%vol_c(i, k, m), chunk%vol_a(i, below, m), &
          chunk%vol_c(i, k, m))
        chunk%nact(i, k) = chunk%nact(i, k) + number
        chunk%fn_base(i, k, m) = chunk%points%found%fn(n, m)
        chunk%dfn(i, k, m) = chunk%points%found%fn_difference(n, m)
      end do
    end do
  end subroutine exchange_at_cloud_bases

  !> Rain takes water, and the particles in its droplets, out of the column.
  subroutine rain(e, time_step, chunk)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: time_step
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: share, rho
    integer :: i, k, m

    do i = 1, chunk%ncol
      do k = 1, e%num_levels
        rho = e%pressure(k)/(gas_constant_dry_air*chunk%t(i, k))
        share = rain_fraction(time_step, rho, chunk%cloud(i, k), chunk%ql(i, k), droplets(chunk, i, k))
        chunk%precipitation(i) = chunk%precipitation(i) + share*chunk%ql(i, k)*e%mass
        chunk%ql(i, k) = chunk%ql(i, k) - share*chunk%ql(i, k)
        do m = 1, num_modes
          chunk%num_wet(i, m) = chunk%num_wet(i, m) + share*chunk%num_c(i, k, m)*e%mass
          chunk%vol_wet(i, m) = chunk%vol_wet(i, m) + share*chunk%vol_c(i, k, m)*e%mass
          chunk%num_c(i, k, m) = chunk%num_c(i, k, m) - share*chunk%num_c(i, k, m)
          chunk%vol_c(i, k, m) = chunk%vol_c(i, k, m) - share*chunk%vol_c(i, k, m)
        end do
        chunk%numliq(i, k) = droplets(chunk, i, k)
      end do
    end do
  end subroutine rain

  !> Droplets, kg-1, grid mean: each holds one particle.
  pure real(r8) function droplets(chunk, i, k)
    type(chunk_t), intent(in) :: chunk
    integer, intent(in) :: i, k
    integer :: m

    droplets = 0._r8
    do m = 1, num_modes
      droplets = droplets + chunk%num_c(i, k, m)
    end do
  end function droplets

  !> Between neighbouring layers, and with the surroundings.
  subroutine mix_aerosol(e, time_step, chunk)
    type(environment_t), intent(in) :: e
    real(r8), intent(in) :: time_step
    type(chunk_t), intent(inout) :: chunk
    real(r8) :: share, number, volume
    integer :: i, k, m

    share = 1._r8 - exp(-time_step/aerosol_time)
    do m = 1, num_modes
      do i = 1, chunk%ncol
        do k = 1, e%num_levels - 1
          call move(mixing*(chunk%num_a(i, k, m) - chunk%num_a(i, k + 1, m)), chunk%num_a(i, k, m), &
            chunk%num_a(i, k + 1, m))
          call move(mixing*(chunk%vol_a(i, k, m) - chunk%vol_a(i, k + 1, m)), chunk%vol_a(i, k, m), &
            chunk%vol_a(i, k + 1, m))
        end do
        do k = 1, e%num_levels
          number = share*(background_number(e, chunk%load(i), k, m) - chunk%num_a(i, k, m))
          volume = share*(background_volume(e, chunk%load(i), chunk%radius(i, m), k, m) - chunk%vol_a(i, k, m))
          chunk%num_a(i, k, m) = chunk%num_a(i, k, m) + number
          chunk%vol_a(i, k, m) = chunk%vol_a(i, k, m) + volume
          chunk%num_source(i, m) = chunk%num_source(i, m) + number*e%mass
          chunk%vol_source(i, m) = chunk%vol_source(i, m) + volume*e%mass
        end do
      end do
    end do
  end subroutine mix_aerosol

  elemental subroutine move(amount, from, to)
    real(r8), intent(in), value :: amount
    real(r8), intent(inout) :: from, to

    from = from - amount
    to = to + amount
  end subroutine move
end module climate_physics
