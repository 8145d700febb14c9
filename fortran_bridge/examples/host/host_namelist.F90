!> What the hosts' readers of namelists have in common: opening, closing, and values out of bounds put into words.
!!
!! `errmsg` says what is wrong and what would be right. The first error wins: a check that finds it allocated does
!! nothing.
module host_namelist
  use aerosol_activation_constants, only: r8
  implicit none
  private
  public :: path_length, choice_length, unset, open_namelist, close_namelist, in_file
  public :: check_integer, check_real, check_choice, check_set, text

  integer, parameter :: path_length = 1024, choice_length = 16
  !> Marks a text that the namelist did not set.
  character(len=*), parameter :: unset = ' '

  interface text
    module procedure integer_text, real_text
  end interface text

contains

  subroutine open_namelist(path, unit, errmsg)
    character(len=*), intent(in) :: path
    integer, intent(out) :: unit
    character(len=:), allocatable, intent(out) :: errmsg
    character(len=512) :: iomsg
    integer :: iostat

    open(newunit=unit, file=path, status='old', action='read', iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) errmsg = "namelist file '"//path//"' cannot be opened: "//trim(iomsg)
  end subroutine open_namelist

  !> After the group was read: `iostat` and `iomsg` are what that gave.
  subroutine close_namelist(path, unit, group, known, iostat, iomsg, errmsg)
    character(len=*), intent(in) :: path, group, iomsg
    integer, intent(in) :: unit, iostat
    character(len=*), intent(in) :: known  !! settings of the group
    character(len=:), allocatable, intent(inout) :: errmsg

    close(unit)
    if (iostat /= 0) errmsg = in_file(path, '&'//group//' cannot be read: '//trim(iomsg)//'; it knows '//known)
  end subroutine close_namelist

  pure function in_file(path, message)
    character(len=*), intent(in) :: path, message
    character(len=:), allocatable :: in_file

    in_file = "namelist file '"//path//"': "//message
  end function in_file

  subroutine check_integer(name, value, least, largest, errmsg)
    character(len=*), intent(in) :: name
    integer, intent(in) :: value, least, largest
    character(len=:), allocatable, intent(inout) :: errmsg

    if (allocated(errmsg) .or. (value >= least .and. value <= largest)) return
    errmsg = name//' = '//text(value)//', expected '//text(least)//' to '//text(largest)
  end subroutine check_integer

  subroutine check_real(name, value, least, largest, expected, errmsg)
    character(len=*), intent(in) :: name
    real(r8), intent(in) :: value, least, largest
    character(len=*), intent(in) :: expected  !! the bounds in words
    character(len=:), allocatable, intent(inout) :: errmsg

    if (allocated(errmsg) .or. (value >= least .and. value <= largest)) return
    errmsg = name//' = '//text(value)//', expected '//expected
  end subroutine check_real

  subroutine check_choice(name, value, choices, errmsg)
    character(len=*), intent(in) :: name, value
    character(len=*), intent(in) :: choices(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: i

    if (allocated(errmsg) .or. any(value == choices)) return
    errmsg = name//" = '"//trim(value)//"', expected '"//trim(choices(1))//"'"
    do i = 2, size(choices)
      errmsg = errmsg//trim(merge(' or', ',  ', i == size(choices)))//" '"//trim(choices(i))//"'"
    end do
  end subroutine check_choice

  subroutine check_set(name, value, expected, errmsg)
    character(len=*), intent(in) :: name, value, expected
    character(len=:), allocatable, intent(inout) :: errmsg

    if (allocated(errmsg) .or. value /= unset) return
    errmsg = name//' is not set, expected '//expected
  end subroutine check_set

  function integer_text(number) result(text)
    integer, intent(in) :: number
    character(len=:), allocatable :: text
    character(len=12) :: buffer

    write(buffer, '(i0)') number
    text = trim(buffer)
  end function integer_text

  function real_text(number) result(text)
    real(r8), intent(in) :: number
    character(len=:), allocatable :: text
    character(len=32) :: buffer

    write(buffer, '(es12.4)') number
    text = trim(adjustl(buffer))
  end function real_text
end module host_namelist
