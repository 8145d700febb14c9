!> Cloud and rain of a point, and the circulation of a column. Water and heat are conserved to rounding.
module climate_clouds
  use aerosol_activation_constants, only: r8, gas_constant_vapour, heat_capacity_dry_air, latent_heat
  use climate_environment, only: saturation
  implicit none
  private
  public :: condense, rain_fraction, circulate

  real(r8), parameter :: critical_rh = 0.85_r8   !! cloud begins where the grid mean exceeds it
  real(r8), parameter :: circulation_time = 4._r8*3600._r8  !! unit of time of the circulation, s

contains

  !> Cloud fraction and water of a grid box whose total water is spread evenly about its mean, by (1 - critical_rh) of
  !! saturation to either side (Smith 1990, doi:10.1002/qj.49711649210, with an even distribution).
  pure subroutine condense(pressure, t, qv, ql, cloud)
    real(r8), intent(in) :: pressure         !! Pa
    real(r8), intent(inout) :: t, qv, ql     !! K, kg kg-1, kg kg-1
    real(r8), intent(out) :: cloud           !! 1
    real(r8) :: t_liquid, q_total, q_sat, slope, width, excess

    t_liquid = t - latent_heat/heat_capacity_dry_air*ql
    q_total = qv + ql
    q_sat = saturation(t_liquid, pressure)
    slope = 1._r8/(1._r8 + latent_heat/heat_capacity_dry_air*latent_heat*q_sat/(gas_constant_vapour*t_liquid**2))
    width = (1._r8 - critical_rh)*q_sat
    excess = q_total - q_sat
    if (excess <= -width) then
      cloud = 0._r8
      ql = 0._r8
    else if (excess >= width) then
      cloud = 1._r8
      ql = slope*excess
    else
      cloud = (excess + width)/(2._r8*width)
      ql = slope*(excess + width)**2/(4._r8*width)
    end if
    qv = q_total - ql
    t = t_liquid + latent_heat/heat_capacity_dry_air*ql
  end subroutine condense

  !> Share of the cloud water that rains out in a step (Khairoutdinov & Kogan 2000, doi:10.1175/1520-0493(2000)128
  !! <0229:ANCPPI>2.0.CO;2, Eq. 29): the fewer droplets, the more.
  pure real(r8) function rain_fraction(time_step, rho, cloud, ql, droplets)
    real(r8), intent(in) :: time_step   !! s
    real(r8), intent(in) :: rho         !! kg m-3
    real(r8), intent(in) :: cloud       !! 1
    real(r8), intent(in) :: ql          !! kg kg-1, grid mean
    real(r8), intent(in) :: droplets    !! kg-1, grid mean
    real(r8) :: in_cloud, number_cm3

    rain_fraction = 0._r8
    if (cloud < 0.01_r8 .or. ql < 1.e-9_r8) return
    in_cloud = ql/cloud
    number_cm3 = max(1._r8, 1.e-6_r8*rho*droplets/cloud)
    rain_fraction = 1._r8 - exp(-1350._r8*in_cloud**1.47_r8*number_cm3**(-1.79_r8)*time_step)
  end function rain_fraction

  !> Overturning of a column: Lorenz (1963), doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2, whose temperature
  !! contrast the weight of cloud water lessens. Chaotic, and bounded for any bounded load. Runge-Kutta of order 4.
  pure subroutine circulate(time_step, load, x, y, z)
    real(r8), intent(in) :: time_step   !! s
    real(r8), intent(in) :: load        !! 0 to 1
    real(r8), intent(inout) :: x, y, z
    real(r8) :: s(3), k1(3), k2(3), k3(3), k4(3), h
    integer :: substep, num_substeps

    num_substeps = ceiling(time_step/circulation_time/0.01_r8)
    h = time_step/circulation_time/num_substeps
    s = [x, y, z]
    do substep = 1, num_substeps
      k1 = tendency(s)
      k2 = tendency(s + 0.5_r8*h*k1)
      k3 = tendency(s + 0.5_r8*h*k2)
      k4 = tendency(s + h*k3)
      s = s + h/6._r8*(k1 + 2._r8*k2 + 2._r8*k3 + k4)
    end do
    x = s(1)
    y = s(2)
    z = s(3)

  contains

    pure function tendency(s) result(ds)
      real(r8), intent(in) :: s(3)
      real(r8) :: ds(3)

      ds = [10._r8*(s(2) - s(1)), 28._r8*s(1) - s(2) - s(1)*s(3) - 5._r8*load, s(1)*s(2) - 8._r8/3._r8*s(3)]
    end function tendency
  end subroutine circulate
end module climate_clouds
