!> Errors of a scheme against the parcel model, sample by sample.
module host_errors
  use aerosol_activation_constants, only: r8, num_modes
  use host_samples, only: samples_t
  use host_state, only: found_t
  implicit none
  private
  public :: errors_t, fraction_errors_t, measure_errors, r2_is_meaningful, meaningful_spread

  !> A mode whose true fraction varies by less than this (standard deviation, of a quantity between 0 and 1) has no
  !! variance worth explaining: the coarse mode activates fully in almost every state, and R^2 would divide by its rare
  !! exceptions.
  real(r8), parameter :: meaningful_spread = 0.001_r8

  !> Of an activated fraction.
  type :: fraction_errors_t
    real(r8) :: mse = 0._r8                                   !! mean over modes
    real(r8), dimension(num_modes) :: mse_per_mode = 0._r8
    real(r8), dimension(num_modes) :: r2_per_mode = 0._r8     !! see r2_is_meaningful
    real(r8), dimension(num_modes) :: max_error_per_mode = 0._r8
    real(r8), dimension(num_modes) :: truth_spread = 0._r8    !! standard deviation of the truth
  end type fraction_errors_t

  type :: errors_t
    integer :: num_samples = 0
    type(fraction_errors_t) :: fn, fm                         !! of number and of mass
    real(r8) :: number_rmse_cm3 = 0._r8                       !! of activated number, all modes together, cm-3
    real(r8) :: number_bias_cm3 = 0._r8
    real(r8) :: number_r2 = 0._r8
  end type errors_t

contains

  pure function measure_errors(samples, found) result(e)
    type(samples_t), intent(in) :: samples
    type(found_t), intent(in) :: found
    type(errors_t) :: e
    real(r8) :: number(samples%num_samples), true_number(samples%num_samples)

    e%num_samples = samples%num_samples
    e%fn = fraction_errors(found%fn, samples%fn)
    e%fm = fraction_errors(found%fm, samples%fm)
    number = 1.e-6_r8*found%nact
    true_number = sum(samples%fn*samples%num_aer, dim=1)
    e%number_rmse_cm3 = sqrt(sum((number - true_number)**2)/e%num_samples)
    e%number_bias_cm3 = sum(number - true_number)/e%num_samples
    e%number_r2 = r2(number, true_number)
  end function measure_errors

  pure function fraction_errors(found, truth) result(e)
    real(r8), intent(in) :: found(:,:), truth(:,:)  !! (num_modes, num_samples)
    type(fraction_errors_t) :: e
    integer :: m, n

    n = size(truth, 2)
    do m = 1, num_modes
      e%mse_per_mode(m) = sum((found(m, :) - truth(m, :))**2)/n
      e%max_error_per_mode(m) = maxval(abs(found(m, :) - truth(m, :)))
      e%truth_spread(m) = sqrt(sum((truth(m, :) - sum(truth(m, :))/n)**2)/n)
      e%r2_per_mode(m) = r2(found(m, :), truth(m, :))
    end do
    e%mse = sum(e%mse_per_mode)/num_modes
  end function fraction_errors

  !> Share of the truth's variance that is explained; 0 where there is none. Two passes, as a sum of squares less a
  !! squared mean would lose the digits of a small variance.
  pure real(r8) function r2(found, truth)
    real(r8), intent(in) :: found(:), truth(:)
    real(r8) :: total

    total = sum((truth - sum(truth)/size(truth))**2)
    r2 = 0._r8
    if (total > 0._r8) r2 = 1._r8 - sum((found - truth)**2)/total
  end function r2

  elemental logical function r2_is_meaningful(truth_spread)
    real(r8), intent(in) :: truth_spread

    r2_is_meaningful = truth_spread >= meaningful_spread
  end function r2_is_meaningful
end module host_errors
