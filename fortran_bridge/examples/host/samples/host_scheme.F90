!> A scheme that the host runs: ARG or an emulator, with what it found.
module host_scheme
  use aerosol_activation_constants, only: r8
  use aerosol_activation_emulator, only: activation_emulator, activation_counters
  use host_config, only: config_t
  use host_errors, only: errors_t
  use host_state, only: answer_t, found_t
  implicit none
  private
  public :: scheme_t, connect_schemes

  type :: scheme_t
    character(len=:), allocatable :: name       !! 'arg' or 'emulator'; key in the JSON file
    type(activation_emulator) :: by
    type(answer_t), allocatable :: answers(:)   !! one for each chunk
    type(activation_counters) :: counters       !! of one pass over all chunks
    real(r8) :: ns_per_point = 0._r8            !! thread time, median over passes
    type(found_t) :: found                      !! answers by sample
    type(errors_t) :: errors
  end type scheme_t

contains

  !> The schemes that the namelist asks for, ready to be called. On failure `errmsg` is allocated.
  subroutine connect_schemes(config, schemes, errmsg)
    type(config_t), intent(in) :: config
    type(scheme_t), allocatable, intent(out) :: schemes(:)
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=:), allocatable :: message
    integer :: n, stat

    n = merge(2, 1, config%runs_arg() .and. config%runs_emulator())
    allocate(schemes(n))
    if (config%runs_arg()) schemes(1)%name = 'arg'  ! what is not connected is ARG
    if (.not. config%runs_emulator()) return
    schemes(n)%name = 'emulator'
    call schemes(n)%by%connect(trim(config%model), stat, message, fallback=config%fallback)
    if (stat /= 0) errmsg = "model '"//trim(config%model)//"': "//message
  end subroutine connect_schemes
end module host_scheme
