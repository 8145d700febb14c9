!> Errors of a scheme against the parcel model, over the points that stand for a sample of their own.
module host_errors
  use aerosol_activation_constants, only: r8, num_modes
  use host_samples, only: samples_t
  use host_state, only: chunk_t
  implicit none
  private
  public :: errors_t, measure_errors, r2_is_meaningful, meaningful_spread

  !> A mode whose true fn varies by less than this (standard deviation, of a quantity between 0 and 1) has no variance
  !! worth explaining: the coarse mode activates fully in almost every state, and R^2 would divide by its rare
  !! exceptions.
  real(r8), parameter :: meaningful_spread = 0.001_r8

  type :: errors_t
    integer :: num_samples = 0
    real(r8) :: mse = 0._r8                                   !! of fn, mean over modes
    real(r8), dimension(num_modes) :: mse_per_mode = 0._r8    !! of fn
    real(r8), dimension(num_modes) :: r2_per_mode = 0._r8     !! see r2_is_meaningful
    real(r8), dimension(num_modes) :: max_error_per_mode = 0._r8
    real(r8), dimension(num_modes) :: truth_spread = 0._r8    !! standard deviation of the parcel model's fn
    real(r8) :: number_rmse_cm3 = 0._r8                       !! of activated number, all modes together, cm-3
    real(r8) :: number_bias_cm3 = 0._r8
    real(r8) :: number_r2 = 0._r8
  end type errors_t

contains

  pure function measure_errors(samples, chunks, emulator) result(e)
    type(samples_t), intent(in) :: samples
    type(chunk_t), intent(in) :: chunks(:)
    logical, intent(in) :: emulator  !! errors of the emulator; else of ARG
    type(errors_t) :: e
    real(r8), dimension(num_modes) :: fn, difference, mean, square, total
    real(r8) :: number, true_number, number_mean, number_square, number_total
    integer :: c, i, k, s

    ! Two passes, as a sum of squares less a squared mean would lose the digits of a small variance.
    mean = sum(samples%fn, dim=2)/samples%num_samples
    number_mean = sum(samples%fn*samples%num_aer)/samples%num_samples
    square = 0._r8
    total = 0._r8
    number_square = 0._r8
    number_total = 0._r8
    do c = 1, size(chunks)
      do k = 1, size(chunks(c)%sample, 2)
        do i = 1, chunks(c)%ncol
          s = chunks(c)%sample(i, k)
          if (s == 0) cycle
          e%num_samples = e%num_samples + 1
          if (emulator) then
            fn = chunks(c)%fn_emulator(i, k, :)
            number = 1.e-6_r8*chunks(c)%nact_emulator(i, k)
          else
            fn = chunks(c)%fn_arg(i, k, :)
            number = 1.e-6_r8*chunks(c)%nact_arg(i, k)
          end if
          true_number = sum(samples%fn(:, s)*samples%num_aer(:, s))
          difference = fn - samples%fn(:, s)
          square = square + difference**2
          total = total + (samples%fn(:, s) - mean)**2
          e%max_error_per_mode = max(e%max_error_per_mode, abs(difference))
          number_square = number_square + (number - true_number)**2
          number_total = number_total + (true_number - number_mean)**2
          e%number_bias_cm3 = e%number_bias_cm3 + (number - true_number)
        end do
      end do
    end do
    e%mse_per_mode = square/e%num_samples
    e%mse = sum(e%mse_per_mode)/num_modes
    e%truth_spread = sqrt(total/e%num_samples)
    where (total > 0._r8) e%r2_per_mode = 1._r8 - square/total
    e%number_rmse_cm3 = sqrt(number_square/e%num_samples)
    e%number_bias_cm3 = e%number_bias_cm3/e%num_samples
    if (number_total > 0._r8) e%number_r2 = 1._r8 - number_square/number_total
  end function measure_errors

  elemental logical function r2_is_meaningful(truth_spread)
    real(r8), intent(in) :: truth_spread

    r2_is_meaningful = truth_spread >= meaningful_spread
  end function r2_is_meaningful
end module host_errors
