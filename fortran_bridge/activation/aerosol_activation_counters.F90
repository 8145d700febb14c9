!> What happened to the points that were given to the activation emulator. Counters are the caller's own, one variable for
!! each thread or chunk, and are added up afterwards; sums do not depend on how points were cut into calls.
module aerosol_activation_counters
  use, intrinsic :: iso_fortran_env, only: int64
  use aerosol_activation_mapping, only: num_known_inputs
  implicit none
  private
  public :: activation_counters

  !> points = early_returns + prescribed + arg + emulated + fallbacks + failures.
  type :: activation_counters
    integer(int64) :: points = 0
    integer(int64) :: early_returns = 0  !! no aerosol or no updraft: all outputs 0
    integer(int64) :: prescribed = 0     !! supersaturation given by the host: ARG's closed form
    integer(int64) :: arg = 0            !! scheme 'arg'
    integer(int64) :: emulated = 0
    integer(int64) :: fallbacks = 0      !! outside of the training range: ARG in the emulator's place
    integer(int64) :: failures = 0       !! outputs are NaN
    !> Of the points emulated or fallen back: those with an input beyond its training range by more than the margin, or
    !! NaN. Inputs as `known_input_names` of aerosol_activation_mapping lists them. What the emulator moves to the end of
    !! a range without falling back (see aerosol_activation_emulator) is counted too.
    integer(int64), dimension(num_known_inputs) :: low = 0, high = 0, nan = 0
  contains
    procedure :: add
  end type activation_counters

contains

  elemental subroutine add(self, other)
    class(activation_counters), intent(inout) :: self
    class(activation_counters), intent(in) :: other

    self%points = self%points + other%points
    self%early_returns = self%early_returns + other%early_returns
    self%prescribed = self%prescribed + other%prescribed
    self%arg = self%arg + other%arg
    self%emulated = self%emulated + other%emulated
    self%fallbacks = self%fallbacks + other%fallbacks
    self%failures = self%failures + other%failures
    self%low = self%low + other%low
    self%high = self%high + other%high
    self%nan = self%nan + other%nan
  end subroutine add
end module aerosol_activation_counters
