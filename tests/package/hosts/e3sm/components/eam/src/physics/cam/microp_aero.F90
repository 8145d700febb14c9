! Stand-in for E3SM's microp_aero.F90: reads the namelist, then initialises
module microp_aero
  use ndrop,            only: ndrop_init
  use cam_logfile,      only: iulog
  implicit none
  private
  public :: microp_aero_readnl, microp_aero_init
contains
  subroutine microp_aero_readnl(nlfile)
    character(len=*), intent(in) :: nlfile

    call nucleate_ice_cam_readnl(nlfile)
  end subroutine microp_aero_readnl

  subroutine nucleate_ice_cam_readnl(nlfile)
    character(len=*), intent(in) :: nlfile
    write(iulog, '(2a)') ' namelist: ', nlfile
  end subroutine nucleate_ice_cam_readnl

  subroutine microp_aero_init
       call ndrop_init()
  end subroutine microp_aero_init
end module microp_aero
