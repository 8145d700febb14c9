! Stand-ins of the modules that E3SM's ndrop.F90 uses: kinds, constants, grid, options, history, messages.
! Names and kinds are E3SM's, values are those of its shr_const_mod and of its production namelists; of each module
! there is what ndrop.F90 names in its `use` statements, and what a driver needs to set it up and to read its results.

module shr_kind_mod
  use, intrinsic :: iso_fortran_env, only: real64
  implicit none
  private
  integer, parameter, public :: shr_kind_r8 = real64
end module shr_kind_mod

module shr_spfn_mod
  use shr_kind_mod, only: r8 => shr_kind_r8
  implicit none
  private
  public :: shr_spfn_erf

contains

  elemental function shr_spfn_erf(x) result(res)
    real(r8), intent(in) :: x
    real(r8) :: res

    res = erf(x)
  end function shr_spfn_erf
end module shr_spfn_mod

module physconst
  use shr_kind_mod, only: r8 => shr_kind_r8
  implicit none
  private
  real(r8), parameter, public :: pi = 3.14159265358979323846_r8
  real(r8), parameter, public :: rhoh2o = 1.000e3_r8                          !! kg m-3
  real(r8), parameter, public :: mwh2o = 18.016_r8                            !! kg kmol-1
  real(r8), parameter, public :: mwdry = 28.966_r8                            !! kg kmol-1
  real(r8), parameter, public :: r_universal = 6.02214e26_r8*1.38065e-23_r8   !! J K-1 kmol-1
  real(r8), parameter, public :: rh2o = r_universal/mwh2o                     !! J K-1 kg-1
  real(r8), parameter, public :: rair = r_universal/mwdry                     !! J K-1 kg-1
  real(r8), parameter, public :: epsilo = mwh2o/mwdry
  real(r8), parameter, public :: gravit = 9.80616_r8                          !! m s-2
  real(r8), parameter, public :: latvap = 2.501e6_r8                          !! J kg-1
  real(r8), parameter, public :: cpair = 1.00464e3_r8                         !! J K-1 kg-1
  real(r8), parameter, public :: tmelt = 273.15_r8                            !! K
  real(r8), parameter, public :: h2otrip = 273.16_r8                          !! K
end module physconst

module ppgrid
  implicit none
  private
  integer, public :: pcols = -1             !! columns in a chunk, at most: set at run time, as in E3SM
  integer, parameter, public :: pver = 12   !! levels; E3SM's PLEV, here fewer
  integer, parameter, public :: pverp = pver + 1
end module ppgrid

module ref_pres
  implicit none
  private
  integer, public :: trop_cloud_top_lev = 1
end module ref_pres

module spmd_utils
  implicit none
  private
  logical, parameter, public :: masterproc = .true.
end module spmd_utils

module cam_logfile
  use, intrinsic :: iso_fortran_env, only: error_unit
  implicit none
  private
  integer, parameter, public :: iulog = error_unit
end module cam_logfile

module cam_abortutils
  implicit none
  private
  public :: endrun

contains

  subroutine endrun(msg)
    character(len=*), intent(in), optional :: msg

    if (present(msg)) error stop msg
    error stop 'endrun'
  end subroutine endrun
end module cam_abortutils

module phys_control
  implicit none
  private
  public :: phys_getopts

contains

  !> E3SM's production settings; the fixes are off by default there.
  subroutine phys_getopts(history_amwg_out, history_verbose_out, history_aerosol_out, prog_modal_aero_out, &
      fix_g1_err_ndrop_out, regen_fix_out)
    logical, intent(out), optional :: history_amwg_out, history_verbose_out, history_aerosol_out, prog_modal_aero_out
    logical, intent(out), optional :: fix_g1_err_ndrop_out, regen_fix_out

    if (present(history_amwg_out)) history_amwg_out = .true.
    if (present(history_verbose_out)) history_verbose_out = .true.
    if (present(history_aerosol_out)) history_aerosol_out = .true.
    if (present(prog_modal_aero_out)) prog_modal_aero_out = .true.
    if (present(fix_g1_err_ndrop_out)) fix_g1_err_ndrop_out = .true.
    if (present(regen_fix_out)) regen_fix_out = .true.
  end subroutine phys_getopts
end module phys_control

module output_aerocom_aie
  implicit none
  private
  logical, parameter, public :: do_aerocom_ind3 = .false.
end module output_aerocom_aie

!> Keeps the last values of every field that was announced; a driver reads them back with `history_field`.
module cam_history
  use shr_kind_mod, only: r8 => shr_kind_r8
  use ppgrid, only: pver
  use cam_abortutils, only: endrun
  implicit none
  private
  public :: addfld, add_default, outfld, horiz_only, fieldname_len, history_field

  integer, parameter :: fieldname_len = 24
  character(len=*), parameter :: horiz_only = 'horiz_only'

  type :: field_t
    character(len=fieldname_len) :: name = ''
    integer :: num_levels = 0
    logical :: by_default = .false.
    real(r8), allocatable :: values(:, :)
  end type field_t
  type(field_t) :: fields(200)
  integer :: num_fields = 0

  interface addfld
    module procedure addfld_horizontal
    module procedure addfld_levels
  end interface addfld

contains

  subroutine addfld_horizontal(fname, vdim_name, avgflag, units, long_name)
    character(len=*), intent(in) :: fname, vdim_name, avgflag, units, long_name

    if (vdim_name /= horiz_only) call endrun('addfld: unknown dimension '//vdim_name)
    call announce(fname, 1, avgflag, units, long_name)
  end subroutine addfld_horizontal

  subroutine addfld_levels(fname, dimnames, avgflag, units, long_name)
    character(len=*), intent(in) :: fname, dimnames(:), avgflag, units, long_name

    if (size(dimnames) /= 1 .or. dimnames(1) /= 'lev') call endrun('addfld: unknown dimension '//dimnames(1))
    call announce(fname, pver, avgflag, units, long_name)
  end subroutine addfld_levels

  subroutine announce(fname, num_levels, avgflag, units, long_name)
    character(len=*), intent(in) :: fname, avgflag, units, long_name
    integer, intent(in) :: num_levels

    if (find(fname) > 0) call endrun('addfld: announced twice: '//fname)
    if (avgflag /= 'A' .or. len_trim(units) == 0 .or. len_trim(long_name) == 0) call endrun('addfld: '//fname)
    num_fields = num_fields + 1
    fields(num_fields) = field_t(name=fname, num_levels=num_levels)
  end subroutine announce

  subroutine add_default(name, tindex, flag)
    character(len=*), intent(in) :: name, flag
    integer, intent(in) :: tindex

    if (find(name) == 0 .or. tindex /= 1 .or. flag /= ' ') call endrun('add_default: '//name)
    fields(find(name))%by_default = .true.
  end subroutine add_default

  !> A field that was not announced is left out in silence, as in E3SM.
  subroutine outfld(fname, field, idim, c)
    character(len=*), intent(in) :: fname
    integer, intent(in) :: idim, c   !! first extent, chunk
    real(r8), intent(in) :: field(idim, *)

    if (c /= 1) call endrun('outfld: there is one chunk')
    if (find(fname) == 0) return
    associate (kept => fields(find(fname)))
      kept%values = field(:, :kept%num_levels)
    end associate
  end subroutine outfld

  !> What `outfld` was given last: (pcols, 1 or pver).
  function history_field(fname) result(values)
    character(len=*), intent(in) :: fname
    real(r8), allocatable :: values(:, :)

    if (find(fname) == 0) call endrun('history_field: unknown field '//fname)
    values = fields(find(fname))%values
  end function history_field

  integer function find(fname)
    character(len=*), intent(in) :: fname

    do find = num_fields, 1, -1
      if (fields(find)%name == fname) return
    end do
  end function find
end module cam_history
