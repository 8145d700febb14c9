!> Abdul-Razzak & Ghan (2000), doi:10.1029/1999JD901161, as E3SM's `activate_modal` evaluates it for one updraft.
!!
!! SI units throughout. The arguments of `activate_modal_arg` are those of E3SM's routine in the refactored form
!! (single updraft), and so are its early returns; the current form has one of them narrower, see `needs_first_mode`.
!! Thresholds, transport coefficients, the weak-forcing and small-eta branches are E3SM's, with the corrected exponent
!! of the first term of Eq. 6 (`fix_g1_err_ndrop = .true.`, E3SM's production setting). ln(S_c / S_max) is formed from
!! squares, which saves square roots and one logarithm and moves the last digits only.
!!
!! Thread-safe: no module variables, no saved locals, no I/O, no stop. What holds local arrays is `recursive`, as some
!! compilers would give them one place in memory otherwise.
module aerosol_activation_arg
  use aerosol_activation_constants, only: r8, num_modes, pi, gravity, gas_constant, molar_mass_water, &
    gas_constant_dry_air, gas_constant_vapour, heat_capacity_dry_air, latent_heat, density_water, ln_sigma_g, exp45_mode
  use aerosol_activation_nan, only: quiet_nan
  use aerosol_activation_saturation, only: saturation_humidity
  implicit none
  private
  public :: activate_modal_arg, activate_number_arg, default_max_updraft

  real(r8), parameter :: reference_pressure = 1013.25e2_r8  !! Pa
  real(r8), parameter :: reference_temperature = 273._r8    !! K: rounded in E3SM, and kept
  real(r8), parameter :: surface_tension = 0.076_r8         !! N m-1
  real(r8), parameter :: kelvin_length = &                  !! m
    2._r8*molar_mass_water*surface_tension/(gas_constant*reference_temperature*density_water)
  real(r8), parameter :: negligible_number = 1.e-20_r8      !! m-3, in mode 1: no activation at all
  real(r8), parameter :: absent_mode = 1.e-39_r8            !! m-3 and m3 m-3: the mode takes up no water
  real(r8), parameter :: inert_kappa = 1.e-10_r8
  real(r8), parameter :: inert_smc2 = 100._r8**2            !! squared critical supersaturation of an inert mode
  real(r8), parameter :: weak_forcing_ratio = 1.e5_r8
  real(r8), parameter :: weak_forcing_inverse_smax2 = 1.e40_r8  ! E3SM's S_max of 1e-20, as 1/S_max^2
  real(r8), parameter :: small_eta = 1.e-20_r8
  real(r8), parameter :: least_smax = 1.e-120_r8            !! a prescribed one is lifted to it: squares stay finite
  real(r8), parameter :: default_max_updraft = 10._r8       !! m s-1, upper end of E3SM's updraft spectrum

  real(r8), parameter :: f_mode(num_modes) = 0.5_r8*exp(2.5_r8*ln_sigma_g**2)              ! Eq. 7
  real(r8), parameter :: g_mode(num_modes) = 1._r8 + 0.25_r8*ln_sigma_g                    ! Eq. 8
  real(r8), parameter :: erf_scale(num_modes) = 1._r8/(3._r8*sqrt(2._r8)*ln_sigma_g)       ! of ln(S_c^2/S_max^2)
  real(r8), parameter :: erf_mass_shift(num_modes) = 1.5_r8*sqrt(2._r8)*ln_sigma_g
  real(r8), parameter :: smc2_mode(num_modes) = 16._r8*pi/81._r8*kelvin_length**3*exp45_mode

contains

  !> Activated fractions and fluxes of one grid point. `nmode` is 1 to 4; with any other value every output is NaN.
  pure recursive subroutine activate_modal_arg(w_in, wmaxf, tair, rhoair, na, nmode, volume, hygro, &
      fn, fm, fluxn, fluxm, flux_fullact, smax_prescribed, smax_out, needs_first_mode)
    real(r8), intent(in) :: w_in              !! updraft speed, m s-1
    real(r8), intent(in) :: wmaxf             !! largest updraft of the host, m s-1; enters through absent modes only
    real(r8), intent(in) :: tair              !! air temperature, K
    real(r8), intent(in) :: rhoair            !! air density, kg m-3
    integer, intent(in) :: nmode              !! number of modes, the first of MAM4's four
    real(r8), intent(in) :: na(nmode)         !! number concentration, m-3
    real(r8), intent(in) :: volume(nmode)     !! volume concentration, m3 m-3
    real(r8), intent(in) :: hygro(nmode)      !! volume-mean hygroscopicity, 1
    real(r8), intent(out) :: fn(nmode)        !! activated fraction of number, 1
    real(r8), intent(out) :: fm(nmode)        !! activated fraction of mass, 1
    real(r8), intent(out) :: fluxn(nmode)     !! flux of fn into cloud, m s-1
    real(r8), intent(out) :: fluxm(nmode)     !! flux of fm into cloud, m s-1
    real(r8), intent(out) :: flux_fullact     !! flux if everything activated, m s-1
    real(r8), intent(in), optional :: smax_prescribed  !! supersaturation to use in place of the scheme's own, 1
    real(r8), intent(out), optional :: smax_out        !! maximum supersaturation, 1; 0 after an early return
    !> Where mode 1 has less than 1e-20 m-3, nothing activates (.true., E3SM's refactored form, the default), or only
    !! if it is the one mode there is (.false., E3SM's current form).
    logical, intent(in), optional :: needs_first_mode

    real(r8) :: zeta, eta(num_modes), smc2(num_modes), inverse_smax2, arg
    logical :: first_mode_decides
    integer :: m

    fn = 0._r8
    fm = 0._r8
    fluxn = 0._r8
    fluxm = 0._r8
    flux_fullact = 0._r8
    if (present(smax_out)) smax_out = 0._r8
    if (nmode < 1 .or. nmode > num_modes) then
      fn = quiet_nan()
      fm = fn
      fluxn = fn
      fluxm = fn
      flux_fullact = quiet_nan()
      return
    end if
    first_mode_decides = .true.
    if (present(needs_first_mode)) first_mode_decides = needs_first_mode .or. nmode == 1
    if (first_mode_decides .and. na(1) < negligible_number) return
    if (w_in <= 0._r8) return
    if (present(smax_prescribed)) then
      if (smax_prescribed <= 0._r8) return
    end if

    call forcing(w_in, wmaxf, tair, rhoair, nmode, na, volume, hygro, zeta, eta, smc2)
    if (present(smax_prescribed)) then
      inverse_smax2 = 1._r8/max(smax_prescribed, least_smax)**2
    else
      inverse_smax2 = inverse_square_supersaturation(nmode, zeta, eta, smc2)
    end if

    do m = 1, nmode
      arg = erf_scale(m)*log(smc2(m)*inverse_smax2)
      fn(m) = 0.5_r8*(1._r8 - erf(arg))
      fm(m) = 0.5_r8*(1._r8 - erf(arg - erf_mass_shift(m)))
      fluxn(m) = fn(m)*w_in
      fluxm(m) = fm(m)*w_in
    end do
    flux_fullact = w_in
    if (present(smax_out)) smax_out = 1._r8/sqrt(inverse_smax2)
  end subroutine activate_modal_arg

  !> Activated fraction of number only, for the first `ncol` columns of a chunk; the rest of `fn` is left alone.
  pure recursive subroutine activate_number_arg(pcols, ncol, w, tair, rhoair, na, volume, hygro, fn)
    integer, intent(in) :: pcols                          !! first extent of the arrays
    integer, intent(in) :: ncol                           !! columns that hold data, at most pcols
    real(r8), intent(in) :: w(pcols)                      !! updraft speed, m s-1
    real(r8), intent(in) :: tair(pcols)                   !! air temperature, K
    real(r8), intent(in) :: rhoair(pcols)                 !! air density, kg m-3
    real(r8), intent(in) :: na(pcols, num_modes)          !! number concentration, m-3
    real(r8), intent(in) :: volume(pcols, num_modes)      !! volume concentration, m3 m-3
    real(r8), intent(in) :: hygro(pcols, num_modes)       !! volume-mean hygroscopicity, 1
    real(r8), intent(inout) :: fn(pcols, num_modes)       !! activated fraction of number, 1

    real(r8) :: zeta, eta(num_modes), smc2(num_modes), inverse_smax2
    real(r8) :: na_i(num_modes), volume_i(num_modes), hygro_i(num_modes), fn_i(num_modes)
    integer :: i, m

    do i = 1, ncol
      fn(i, :) = 0._r8
      if (na(i, 1) < negligible_number .or. w(i) <= 0._r8) cycle
      na_i = na(i, :)
      volume_i = volume(i, :)
      hygro_i = hygro(i, :)
      call forcing(w(i), default_max_updraft, tair(i), rhoair(i), num_modes, na_i, volume_i, hygro_i, zeta, eta, smc2)
      inverse_smax2 = inverse_square_supersaturation(num_modes, zeta, eta, smc2)
      ! Unrolled, this loop would keep to scalar log and erf; as a loop, gfortran takes them from libmvec, two modes
      ! at a time (a third less per point). Over modes, not columns: a point's bits must not depend on its place in
      ! the chunk.
      !GCC$ unroll 1
      do m = 1, num_modes
        fn_i(m) = 0.5_r8*(1._r8 - erf(erf_scale(m)*log(smc2(m)*inverse_smax2)))
      end do
      fn(i, :) = fn_i
    end do
  end subroutine activate_number_arg

  !> zeta and eta (Eqs. 10, 11) and the squared critical supersaturation of each mode.
  pure subroutine forcing(w, wmax, tair, rhoair, nmode, na, volume, hygro, zeta, eta, smc2)
    real(r8), intent(in) :: w, wmax, tair, rhoair
    integer, intent(in) :: nmode
    real(r8), intent(in) :: na(nmode), volume(nmode), hygro(nmode)
    real(r8), intent(out) :: zeta, eta(num_modes), smc2(num_modes)

    real(r8) :: pressure, qs, latent_over_rv_t, inverse_t, alpha, gamma, diffusivity, conductivity, growth, sqrt_growth
    real(r8) :: cooling, sqrt_cooling, eta_times_number, largest
    integer :: m

    pressure = gas_constant_dry_air*rhoair*tair
    qs = saturation_humidity(tair, pressure)
    inverse_t = 1._r8/tair
    latent_over_rv_t = latent_heat/gas_constant_vapour*inverse_t
    alpha = gravity*inverse_t*(latent_over_rv_t/heat_capacity_dry_air - 1._r8/gas_constant_dry_air)
    gamma = (1._r8 + latent_heat/heat_capacity_dry_air*latent_over_rv_t*inverse_t*qs)/(rhoair*qs)
    diffusivity = 0.211e-4_r8*(reference_pressure/pressure)*(tair/reference_temperature)**1.94_r8
    conductivity = (5.69_r8 + 0.017_r8*(tair - reference_temperature))*4.186e2_r8*1.e-5_r8
    ! Growth coefficient: Abdul-Razzak et al. (1998), doi:10.1029/98JD03735, Eq. 16; the same for every mode.
    growth = 1._r8/(density_water/(diffusivity*rhoair*qs) &
      + latent_heat*density_water/(conductivity*tair)*(latent_over_rv_t - 1._r8))
    sqrt_growth = sqrt(growth)
    cooling = alpha*w
    sqrt_cooling = sqrt(cooling)
    zeta = 2._r8/3._r8*kelvin_length*sqrt_cooling/sqrt_growth
    eta_times_number = cooling*sqrt_cooling/(2._r8*pi*density_water*growth*gamma*sqrt_growth)

    do m = 1, nmode
      if (volume(m) > absent_mode .and. na(m) > absent_mode) then
        eta(m) = eta_times_number/na(m)
        if (hygro(m) > inert_kappa) then
          smc2(m) = smc2_mode(m)*na(m)/(hygro(m)*volume(m))
        else
          smc2(m) = inert_smc2
        end if
      else
        ! Large enough that the mode takes no water from the others.
        largest = alpha*wmax
        eta(m) = cooling*sqrt_cooling*1.e10_r8/(largest*sqrt(largest))
        smc2(m) = 1._r8
      end if
    end do
  end subroutine forcing

  !> 1/S_max^2 of Eq. 6 with E3SM's two guards.
  pure function inverse_square_supersaturation(nmode, zeta, eta, smc2) result(total)
    integer, intent(in) :: nmode
    real(r8), intent(in) :: zeta, eta(num_modes), smc2(num_modes)
    real(r8) :: total
    real(r8) :: ratio, root
    integer :: m

    if (all(zeta > weak_forcing_ratio*eta(:nmode) .or. smc2(:nmode) > weak_forcing_ratio*eta(:nmode))) then
      total = weak_forcing_inverse_smax2
      return
    end if
    total = 0._r8
    do m = 1, nmode
      if (eta(m) > small_eta) then
        ratio = zeta/eta(m)
        root = sqrt(smc2(m)/(eta(m) + 3._r8*zeta))
        total = total + (f_mode(m)*(ratio*sqrt(ratio)) + g_mode(m)*(root*sqrt(root)))/smc2(m)
      else
        ! It does not add to the sum, it replaces it: E3SM's order dependence, kept.
        total = 1.e20_r8
      end if
    end do
  end function inverse_square_supersaturation
end module aerosol_activation_arg
