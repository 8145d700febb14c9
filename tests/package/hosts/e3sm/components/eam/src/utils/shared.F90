! Stand-ins for modules of E3SM that the atmosphere uses: names and arguments are E3SM's.
module shr_kind_mod
  implicit none
  integer, parameter :: shr_kind_r8 = selected_real_kind(12)
end module shr_kind_mod

module cam_logfile
  implicit none
  integer :: iulog = 6
end module cam_logfile

module cam_abortutils
  implicit none
contains
  subroutine endrun(msg)
    use, intrinsic :: iso_fortran_env, only: error_unit
    character(len=*), intent(in), optional :: msg
    if (present(msg)) write(error_unit, '(2a)') 'ENDRUN: ', msg
    stop 77
  end subroutine endrun
end module cam_abortutils

module spmd_utils
  implicit none
  logical :: masterproc = .true.
  integer :: mpicom = 0
end module spmd_utils

! One task after another in one process: a broadcast by the first is kept for the others.
module shr_mpi_mod
  implicit none
  private
  public :: shr_mpi_bcast, shr_mpi_rewind
  type :: parcel_t
    integer, allocatable :: words(:)
    character(len=:), allocatable :: text
  end type parcel_t
  type(parcel_t) :: kept(100)
  integer :: next = 0
  interface shr_mpi_bcast
    module procedure shr_mpi_bcastc0, shr_mpi_bcasti0, shr_mpi_bcasti1
  end interface shr_mpi_bcast
contains
  subroutine shr_mpi_rewind()
    next = 0
  end subroutine shr_mpi_rewind
  subroutine shr_mpi_bcastc0(vec, comm, string)
    use spmd_utils, only: masterproc
    character(len=*), intent(inout) :: vec
    integer, intent(in) :: comm
    character(len=*), optional, intent(in) :: string
    next = next + 1
    if (masterproc) kept(next)%text = vec
    if (comm == 0 .and. .not. present(string)) vec = kept(next)%text
  end subroutine shr_mpi_bcastc0
  subroutine shr_mpi_bcasti0(vec, comm, string)
    integer, intent(inout) :: vec
    integer, intent(in) :: comm
    character(len=*), optional, intent(in) :: string
    integer :: words(1)
    words = vec
    call shr_mpi_bcasti1(words, comm, string)
    vec = words(1)
  end subroutine shr_mpi_bcasti0
  subroutine shr_mpi_bcasti1(vec, comm, string)
    use spmd_utils, only: masterproc
    integer, intent(inout) :: vec(:)
    integer, intent(in) :: comm
    character(len=*), optional, intent(in) :: string
    next = next + 1
    if (masterproc) kept(next)%words = vec
    if (comm == 0 .and. .not. present(string)) vec = kept(next)%words
  end subroutine shr_mpi_bcasti1
end module shr_mpi_mod

module ioFileMod
  implicit none
contains
  subroutine getfil(fulpath, locfn, iflag)
    character(len=*), intent(in) :: fulpath
    character(len=*), intent(out) :: locfn
    integer, optional, intent(in) :: iflag
    locfn = fulpath
    if (.not. present(iflag)) locfn = ''
  end subroutine getfil
end module ioFileMod

module namelist_utils
  implicit none
contains
  subroutine find_group_name(unit, group, status)
    integer, intent(in) :: unit
    character(len=*), intent(in) :: group
    integer, intent(out) :: status
    character(len=80) :: line
    do
      read(unit, '(a)', iostat=status) line
      if (status /= 0) return
      if (adjustl(line) == '&'//group) exit
    end do
    backspace(unit)
  end subroutine find_group_name
end module namelist_utils

module physics_types
  use shr_kind_mod, only: r8 => shr_kind_r8
  implicit none
  integer, parameter :: pcols = 4, pver = 6, ntot_amode = 4
  type physics_state
    real(r8) :: t(pcols, pver), pmid(pcols, pver), q(pcols, pver, 1), w(pcols, pver)
    real(r8), dimension(pcols, pver, ntot_amode) :: na, volume, hygro
  end type physics_state
contains
  !> States that differ from point to point, within what aerosol activation is trained on
  subroutine set_state(state)
    type(physics_state), intent(out) :: state
    integer :: i, k, m
    do k = 1, pver
      do i = 1, pcols
        state%t(i, k) = 265._r8 + 4._r8 * k + i
        state%pmid(i, k) = 45000._r8 + 7000._r8 * k + 300._r8 * i
        state%q(i, k, 1) = 1.e-3_r8 * k + 1.e-4_r8 * i
        state%w(i, k) = 0.15_r8 * k + 0.05_r8 * i
        do m = 1, ntot_amode
          state%na(i, k, m) = 1.e8_r8 / m + 1.e6_r8 * i * k
          state%hygro(i, k, m) = 0.1_r8 * m + 0.01_r8 * i
        end do
        ! radii of 0.06, 0.012, 0.8 and 0.03 um with E3SM's widths: V = N 4/3 pi r^3 exp(4.5 ln^2 sigma)
        state%volume(i, k, :) = state%na(i, k, :) * [4.3e-21_r8, 2.0e-23_r8, 1.0e-17_r8, 3.1e-22_r8]
      end do
    end do
  end subroutine set_state
end module physics_types
