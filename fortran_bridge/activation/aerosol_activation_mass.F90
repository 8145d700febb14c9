!> The activated fraction of mass that belongs to an activated fraction of number, mode by mode: for a network that
!! predicts fn directly.
!!
!! Where particles activate above one size, a lognormal mode of number is one of mass with its median 3 ln^2(sigma)
!! higher, so that fm = Phi(Phi^-1(fn) + 3 ln(sigma)), Phi the normal distribution. An error of fn grows on the way, the
!! more the fewer activate: 10-fold at fn = 0.01 and 29-fold at 0.001 (modes 2 and 4), 13- and 49-fold (modes 1 and 3).
!!
!! With p = min(fn, 1 - fn) and r = sqrt(-ln p): fm = p exp(g(r)) where fn is p, 1 - fm = p exp(g(r)) where 1 - fn is. g
!! is smooth and nearly linear. It is a rational function on each of three intervals of r where fn is p, and on another
!! where 1 - fn is; one set of them for each width. `python -m emulator.activation mass-fit` prints the coefficients
!! (emulator/activation/mass_fit.py: least squares at 70 Chebyshev nodes with 70 digits, of the error relative to
!! sqrt(1 + |g|), and of the error of fm on the last; largest error 3e-15). Those of ln and exp have an error of 4e-16.
!! Rounding makes of that a relative error of fm below 3e-14 down to 1e-290, and below 1e-15 above 1/2.
!!
!! Every host pays for this at each point, so what can be is written to vectorise: no call, no branch, one step of the
!! way for all modes and points before the next. Of NaN and of numbers beyond 0 to 1, no step raises an exception that
!! hosts trap (invalid, division by zero, overflow). A point's bits do not depend on its neighbours'.
!!
!! Thread-safe: no module variables, no saved locals, no I/O, no stop, no allocation.
module aerosol_activation_mass
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_constants, only: r8, num_modes
  implicit none
  private
  public :: mass_from_number

  integer, parameter :: at_once = 128             !! fractions: those of 32 points
  real(r8), parameter :: negligible = 1.e-290_r8  !! below, g is that of its end
  real(r8), parameter :: start(4) = [0.832_r8, 2.2_r8, 6.5_r8, 0.832_r8]  !! of the intervals, in r
  integer, parameter :: num_intervals = 4, upper = 4  !! upper: where 1 - fn is p
  !> Intervals before those of the mode's width: 1.8, 1.6.
  integer, parameter :: first_interval(num_modes) = [0, num_intervals, 0, num_intervals]

  ! g by interval: numerator and denominator in r - start. Of one sign each: nothing cancels.
  real(r8), parameter :: above(0:7, 2*num_intervals) = reshape([ &
    0.652627878363328259_r8, 2.5329318577596374_r8, 4.12423572873364739_r8, 3.92233148460661939_r8, &
    2.48399690900521412_r8, 1.03098736170526848_r8, 0.267636916070181062_r8, 0.0331952166886012906_r8, &
    3.48483600584229703_r8, 7.43623321976787265_r8, 6.73743616804731108_r8, 3.32750882456085475_r8, &
    0.946953001144748671_r8, 0.148944624228632036_r8, 0.0110705246709265738_r8, 2.67384824192440199e-4_r8, &
    14.2621410619195571_r8, 9.56017376292349373_r8, 2.55786361680700606_r8, 0.345598225369205278_r8, &
    0.024576104260961434_r8, 8.72871604508980636e-4_r8, 1.32553732162094877e-5_r8, 5.86844019177230446e-8_r8, &
    -2.5515197014557034_r8, -12.0986036183798575_r8, -20.9441337712305169_r8, -17.4852159900765071_r8, &
    -8.17712302283318329_r8, -2.38320850840854655_r8, -0.382928140567344375_r8, -0.0211826143009618097_r8, &
    0.609822916486144041_r8, 2.45679716948970259_r8, 4.11574480219399555_r8, 3.89946399790759558_r8, &
    2.3544745556016485_r8, 0.901814880447755026_r8, 0.205666144996021671_r8, 0.0212209997132568728_r8, &
    2.99414454787908644_r8, 6.20521558617574669_r8, 5.40257534416897851_r8, 2.54003602871628578_r8, &
    0.684105210436299106_r8, 0.101990467490638088_r8, 7.3187150553630854e-3_r8, 1.76965431750278319e-4_r8, &
    11.6495806417216096_r8, 7.65965753695029867_r8, 2.01342789906958025_r8, 0.268213889795671901_r8, &
    0.0189349329696163313_r8, 6.76289063878865938e-4_r8, 1.05814403082066651e-5_r8, 5.06609120128894681e-8_r8, &
    -1.8405384137947155_r8, -8.49120875654666065_r8, -15.1222776119710055_r8, -13.2249542650062163_r8, &
    -6.11471211192939762_r8, -1.55653063610534764_r8, -0.198891922212711466_r8, -8.70532778139144936e-3_r8], &
    [8, 2*num_intervals])
  real(r8), parameter :: below(0:6, 2*num_intervals) = reshape([ &
    1.0_r8, 1.6113093878262401_r8, 1.60577780960655078_r8, 0.991500505425468538_r8, &
    0.411877538062128147_r8, 0.105012894741676797_r8, 0.0133006908191357895_r8, &
    1.0_r8, 1.44760244426452628_r8, 0.909610846082884363_r8, 0.302297523352292446_r8, &
    0.0532489248895566666_r8, 4.27099039698980786e-3_r8, 1.07217052147357284e-4_r8, &
    1.0_r8, 0.49350280867042996_r8, 0.0921971250998803153_r8, 7.98874739001506891e-3_r8, &
    3.19674676418466123e-4_r8, 5.17713554610552383e-6_r8, 2.35324134779831229e-8_r8, &
    1.0_r8, 3.62318149566796652_r8, 4.2157297649964296_r8, 2.32498336611621778_r8, &
    0.766644515312785921_r8, 0.141325546181698404_r8, 8.49270853370673864e-3_r8, &
    1.0_r8, 1.84791916819953417_r8, 1.85057177656566805_r8, 1.12390321330558188_r8, &
    0.435893723833295796_r8, 0.0999426181310267109_r8, 0.0106339089720132606_r8, &
    1.0_r8, 1.42110823782012796_r8, 0.857905817936227804_r8, 0.271286840872358026_r8, &
    0.045368532817741142_r8, 3.51991877424640751e-3_r8, 8.87425278681090876e-5_r8, &
    1.0_r8, 0.484302429338616424_r8, 0.0890856878567030058_r8, 7.65752805141145052e-3_r8, &
    3.08302212854665242e-4_r8, 5.15404904804614023e-6_r8, 2.54059247563229828e-8_r8, &
    1.0_r8, 3.40628913810451767_r8, 4.14052042693178557_r8, 2.30335626572973625_r8, &
    0.664605617317200994_r8, 0.0939903253767362229_r8, 4.3650820270555579e-3_r8], &
    [7, 2*num_intervals])

  real(r8), parameter :: ln_2 = log(2._r8)
  integer(int64), parameter :: infinity = shiftl(2047_int64, 52), quiet_nan = shiftl(4095_int64, 51)  !! their bits

contains

  !> fm of every mode of `n` points. 0 and 1 give 0 and 1; so do numbers beyond them; NaN gives NaN.
  pure recursive subroutine mass_from_number(n, fn, fm)
    integer, intent(in) :: n                   !! points
    real(r8), intent(in) :: fn(n*num_modes)    !! activated fraction of number, 1; (n, num_modes)
    real(r8), intent(inout) :: fm(n*num_modes) !! activated fraction of mass, 1; (n, num_modes)
    real(r8), dimension(at_once) :: f, p, r, numerator, denominator, base, direction
    real(r8) :: t, t2, t4, x
    integer :: before, num, m, i, k

    do before = 0, n*num_modes - 1, at_once
      num = min(at_once, n*num_modes - before)
      do i = 1, num
        x = fn(before + i)
        f(i) = transfer(iand(transfer(x, 0_int64), not(ones_if_nan(x))), x)  ! 0 for NaN, comparing which would trap
        p(i) = max(min(f(i), 1._r8 - f(i)), 0._r8)
        r(i) = sqrt(minus_log(max(p(i), negligible)))
      end do
      do m = before/n + 1, (before + num - 1)/n + 1
        ! Each with its own coefficients: gfortran would vectorise it all the same, and make it slower.
        !GCC$ novector
        do i = max((m - 1)*n - before, 0) + 1, min(m*n - before, num)
          if (f(i) > 0.5_r8) then
            k = upper
            base(i) = 1._r8
            direction(i) = -1._r8
          else
            k = 1
            if (r(i) > start(2)) k = 2
            if (r(i) > start(3)) k = 3
            base(i) = 0._r8
            direction(i) = 1._r8
          end if
          t = r(i) - start(k)
          t2 = t*t
          t4 = t2*t2
          k = first_interval(m) + k
          numerator(i) = ((above(0, k) + above(1, k)*t) + (above(2, k) + above(3, k)*t)*t2) &
            + ((above(4, k) + above(5, k)*t) + (above(6, k) + above(7, k)*t)*t2)*t4
          denominator(i) = ((1._r8 + below(1, k)*t) + (below(2, k) + below(3, k)*t)*t2) &
            + ((below(4, k) + below(5, k)*t) + below(6, k)*t2)*t4
        end do
      end do
      do i = 1, num
        x = base(i) + direction(i)*p(i)*exponential(numerator(i)/denominator(i))
        fm(before + i) = transfer(ior(transfer(x, 0_int64), iand(ones_if_nan(fn(before + i)), quiet_nan)), x)
      end do
    end do
  end subroutine mass_from_number

  !> All bits where x is NaN, whose bits without the sign are a number above those of infinity; else none. (is_nan of
  !! aerosol_activation_nan would be a call for each.)
  elemental integer(int64) function ones_if_nan(x)
    real(r8), intent(in) :: x

    ones_if_nan = -shiftr(infinity - iand(transfer(x, infinity), huge(infinity)), 63)
  end function ones_if_nan

  !> -ln(x) for normal positive x. With x = 2^k m and m from sqrt(1/2) to sqrt(2), ln(m) = 2 artanh(s), s = (m - 1)/(m + 1).
  elemental real(r8) function minus_log(x)
    real(r8), intent(in) :: x
    real(r8), parameter :: c(0:5) = [0.6666666666658508626_r8, 0.400000000530689531_r8, 0.2857141702490349726_r8, &
      0.2222337800147761911_r8, 0.1812346477314016503_r8, 0.1682171972421331678_r8]
    ! The bits of a number, as an integer, are its exponent (2^52 a step) and fraction.
    integer(int64), parameter :: bits_of_1 = transfer(1._r8, 0_int64), bits_of_root = transfer(sqrt(0.5_r8), 0_int64)
    integer(int64), parameter :: bits_of_2_52 = transfer(2._r8**52, 0_int64), fraction = 2_int64**52 - 1
    real(r8), parameter :: bias = 2._r8**52 + 1023._r8
    integer(int64) :: bits
    real(r8) :: k, m, s, z, z2

    bits = transfer(x, bits) + (bits_of_1 - bits_of_root)
    k = transfer(ior(shiftr(bits, 52), bits_of_2_52), k) - bias
    m = transfer(iand(bits, fraction) + bits_of_root, m)
    s = (m - 1._r8)/(m + 1._r8)
    z = s*s
    z2 = z*z
    minus_log = -(k*ln_2 + (2._r8*s + s*z*(((c(0) + c(1)*z) + (c(2) + c(3)*z)*z2) + (c(4) + c(5)*z)*(z2*z2))))
  end function minus_log

  !> exp(x) for -700 < x < 700: 2^k exp(t), |t| at most ln(2)/2.
  elemental real(r8) function exponential(x)
    real(r8), intent(in) :: x
    real(r8), parameter :: c(0:8) = [0.5000000000000013292_r8, 0.1666666666660824391_r8, 4.166666666651178115e-2_r8, &
      8.333333372232658998e-3_r8, 1.38888889478195831e-3_r8, 1.984118351537089012e-4_r8, 2.480148921473699895e-5_r8, &
      2.763567374099253946e-6_r8, 2.763151270561002384e-7_r8]
    ! Added, it leaves the nearest integer in the last bits. It is taken away again as another number, by way of the bits,
    ! for a compiler with "fast math" would leave out both.
    real(r8), parameter :: rounds = 1.5_r8*2._r8**52, other = 1.25_r8*2._r8**52
    integer(int64), parameter :: to_other = transfer(other, 0_int64) - transfer(rounds, 0_int64)
    real(r8) :: t, t2, t4, y
    integer(int64) :: bits

    bits = transfer(x*(1._r8/ln_2) + rounds, bits)
    t = x - (transfer(bits + to_other, t) - other)*ln_2
    t2 = t*t
    t4 = t2*t2
    y = ((c(0) + c(1)*t) + (c(2) + c(3)*t)*t2) + ((c(4) + c(5)*t) + (c(6) + c(7)*t)*t2)*t4 + c(8)*(t4*t4)
    y = 1._r8 + (t + t2*y)
    exponential = transfer(transfer(y, bits) + shiftl(bits, 52), y)
  end function exponential
end module aerosol_activation_mass
