!> The host as a library: what another program calls to run it, with an activation of its own if it likes.
module climate_library
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_f_procpointer, c_funptr, c_int, c_int64_t, &
    c_null_char, c_ptr
  use climate_external, only: external_activation
  use climate_model, only: run_climate
  use climate_parallel, only: finish_parallel
  implicit none
  private
  public :: climate_host_run, climate_host_finish

contains

  !> 0, or 1 with a message. All ranks call it, any number of times. MPI is started if it is not running.
  integer(c_int) function climate_host_run(namelist_path, f, context, message, message_size) bind(C)
    character(kind=c_char), intent(in) :: namelist_path(*)  !! ends with a null character
    type(c_funptr), intent(in), value :: f                  !! external_activation; null unless scheme is 'external'
    type(c_ptr), intent(in), value :: context               !! handed on to f
    integer(c_int64_t), intent(in), value :: message_size   !! room for the message and its null character
    character(kind=c_char), intent(inout) :: message(message_size)
    procedure(external_activation), pointer :: external
    character(len=:), allocatable :: path, errmsg
    integer :: n, i

    n = 0
    do while (namelist_path(n + 1) /= c_null_char)
      n = n + 1
    end do
    allocate(character(len=n) :: path)
    do i = 1, n
      path(i:i) = namelist_path(i)
    end do
    external => null()
    if (c_associated(f)) call c_f_procpointer(f, external)
    call run_climate(path, external, context, errmsg)
    climate_host_run = 0
    if (message_size > 0) message(1) = c_null_char
    if (.not. allocated(errmsg)) return
    climate_host_run = 1
    n = int(min(int(len(errmsg), c_int64_t), message_size - 1))
    do i = 1, n
      message(i) = errmsg(i:i)
    end do
    if (n >= 0) message(n + 1) = c_null_char
  end function climate_host_run

  !> After the last run: ends MPI if `climate_host_run` started it.
  subroutine climate_host_finish() bind(C)
    call finish_parallel()
  end subroutine climate_host_finish
end module climate_library
