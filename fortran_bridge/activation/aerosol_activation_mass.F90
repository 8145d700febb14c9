!> The activated fraction of mass that belongs to an activated fraction of number, mode by mode: for a network that
!! predicts fn directly.
!!
!! Where particles activate above one size, a lognormal mode of number is one of mass with its median 3 ln^2(sigma)
!! higher, so that fm = Phi(Phi^-1(fn) + 3 ln(sigma)), Phi the normal distribution. An error of fn grows on the way, the
!! more the fewer activate: 10-fold at fn = 0.01 and 29-fold at 0.001 (modes 2 and 4), 13- and 49-fold (modes 1 and 3).
!!
!! Phi^-1(fn) = -sqrt(2) z with erfc(z) = 2 fn. Of p = min(fn, 1 - fn), z is x times a rational function of x^2,
!! x = 1 - 2 p, or where few activate one of r = sqrt(-ln p): the three intervals of Wichura (1988, algorithm AS 241,
!! doi:10.2307/2347330), fitted anew to z (least squares of the relative error at 90 Chebyshev nodes, 90 digits). Largest
!! relative error of z 9e-17, before rounding. No iteration: a point costs what every other does.
!!
!! Thread-safe: no module variables, no saved locals, no I/O, no stop. A point's bits do not depend on its neighbours', and
!! no number raises an exception that hosts trap (invalid, division by zero, overflow).
module aerosol_activation_mass
  use aerosol_activation_constants, only: r8, num_modes, ln_sigma_g
  use aerosol_activation_nan, only: is_nan
  implicit none
  private
  public :: mass_from_number

  real(r8), parameter :: mass_shift(num_modes) = 3._r8*ln_sigma_g/sqrt(2._r8)
  real(r8), parameter :: negligible = 1.e-290_r8  !! end of the last interval; there and below fm < 1e-240, taken as fn
  real(r8), parameter :: tail = 0.076_r8          !! p above it: the first interval
  real(r8), parameter :: far = 5._r8              !! r above it: the third
  integer, parameter :: degree = 7

  ! Numerators and denominators, by interval: in 0.7225 - x^2, r - 1.6 and r - 5. All positive: nothing cancels.
  real(r8), parameter :: above(0:degree, 3) = reshape([ &
    1.19753231156709124_r8, 1.17534610406901883e+1_r8, 4.34464450562628715e+1_r8, 7.55108840213610517e+1_r8, &
    6.29923155674182416e+1_r8, 2.30065373317538045e+1_r8, 2.84960182977830408_r8, 5.32760233457955598e-2_r8, &
    1.00652203360368792_r8, 3.27509736031347_r8, 4.0825526727682138_r8, 2.58261250033490387_r8, &
    8.99973051827329881e-1_r8, 1.7135749079372202e-1_r8, 1.61091490297137323e-2_r8, 5.49008009762350055e-4_r8, &
    4.7078495219130336_r8, 3.86753823436020758_r8, 1.26511071691148964_r8, 2.10585812761481454e-1_r8, &
    1.88865951668046304e-2_r8, 8.87608624473932801e-4_r8, 1.94629464459907849e-5_r8, 1.4530658622816061e-7_r8], &
    [degree + 1, 3])
  real(r8), parameter :: below(0:degree, 3) = reshape([ &
    1.0_r8, 1.05660482574653389e+1_r8, 4.28397762206943056e+1_r8, 8.39295140705745411e+1_r8, &
    8.23524202630533286e+1_r8, 3.80574531676874765e+1_r8, 6.93429099739403136_r8, 3.14364700974637629e-1_r8, &
    1.0_r8, 2.0541395145921321_r8, 1.67813087364449346_r8, 6.90928011029477258e-1_r8, &
    1.48438130116458996e-1_r8, 1.52375273918214764e-2_r8, 5.4891571920508016e-4_r8, 1.05018645509004663e-9_r8, &
    1.0_r8, 6.00694356612389746e-1_r8, 1.37386885956756189e-1_r8, 1.49637316109913976e-2_r8, &
    7.944260748174704e-4_r8, 1.87367754012687381e-5_r8, 1.45305610257343846e-7_r8, 2.17353345581520209e-15_r8], &
    [degree + 1, 3])
  real(r8), parameter :: origin(3) = [0.7225_r8, -1.6_r8, -5._r8], direction(3) = [-1._r8, 1._r8, 1._r8]

contains

  !> fm of every mode of one point. 0 and 1 give 0 and 1; so do numbers beyond them; NaN gives NaN.
  pure recursive subroutine mass_from_number(fn, fm)
    real(r8), intent(in) :: fn(num_modes)    !! activated fraction of number, 1
    real(r8), intent(out) :: fm(num_modes)   !! activated fraction of mass, 1
    real(r8), dimension(num_modes) :: f, p, x, r, t, factor, z
    integer :: interval(num_modes), m

    ! Loops over modes that are not unrolled, so that gfortran takes log and erfc from libmvec, two modes at a time.
    !GCC$ unroll 1
    do m = 1, num_modes
      f(m) = merge(0.5_r8, fn(m), is_nan(fn(m)))  ! comparing a NaN would trap
      p(m) = min(max(min(f(m), 1._r8 - f(m)), negligible), 0.5_r8)
      r(m) = sqrt(-log(p(m)))
    end do
    do m = 1, num_modes
      x(m) = 1._r8 - 2._r8*p(m)
      if (p(m) > tail) then
        interval(m) = 1
        t(m) = x(m)*x(m)
        factor(m) = x(m)
      else
        interval(m) = merge(3, 2, r(m) > far)
        t(m) = r(m)
        factor(m) = 1._r8
      end if
      t(m) = origin(interval(m)) + direction(interval(m))*t(m)
      z(m) = factor(m)*rational(t(m), above(:, interval(m)), below(:, interval(m)))
    end do
    !GCC$ unroll 1
    do m = 1, num_modes
      z(m) = merge(-z(m), z(m), f(m) > 0.5_r8)
      fm(m) = 0.5_r8*erfc(z(m) - mass_shift(m))
    end do
    do m = 1, num_modes
      if (is_nan(fn(m))) then
        fm(m) = fn(m)
      else if (fn(m) >= 1._r8) then
        fm(m) = 1._r8
      else if (fn(m) < negligible) then
        fm(m) = max(fn(m), 0._r8)
      end if
    end do
  end subroutine mass_from_number

  pure real(r8) function rational(t, a, b)
    real(r8), intent(in) :: t, a(0:degree), b(0:degree)
    real(r8) :: numerator, denominator
    integer :: k

    numerator = a(degree)
    denominator = b(degree)
    do k = degree - 1, 0, -1
      numerator = numerator*t + a(k)
      denominator = denominator*t + b(k)
    end do
    rational = numerator/denominator
  end function rational
end module aerosol_activation_mass
