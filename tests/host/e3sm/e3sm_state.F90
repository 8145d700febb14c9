! Stand-ins of E3SM's constituents, physics_types, physics_buffer and rad_constituents, with MAM4's aerosol in it: what
! ndrop.F90 uses of them, and what a driver needs to fill them.

!> Water and its numbers first, then each mode's species and number.
module constituents
  use cam_abortutils, only: endrun
  implicit none
  private
  public :: cnst_get_ind

  integer, parameter, public :: pcnst = 30
  character(len=8), parameter, public :: cnst_name(pcnst) = [character(len=8) :: &
    'Q', 'CLDLIQ', 'CLDICE', 'NUMLIQ', 'NUMICE', &
    'so4_a1', 'pom_a1', 'soa_a1', 'bc_a1', 'dst_a1', 'ncl_a1', 'mom_a1', 'num_a1', &
    'so4_a2', 'soa_a2', 'ncl_a2', 'mom_a2', 'num_a2', &
    'dst_a3', 'ncl_a3', 'so4_a3', 'bc_a3', 'pom_a3', 'soa_a3', 'mom_a3', 'num_a3', &
    'pom_a4', 'bc_a4', 'mom_a4', 'num_a4']

contains

  subroutine cnst_get_ind(name, ind)
    character(len=*), intent(in) :: name
    integer, intent(out) :: ind

    do ind = pcnst, 1, -1
      if (cnst_name(ind) == name) return
    end do
    call endrun('cnst_get_ind: no constituent '//name)
  end subroutine cnst_get_ind
end module constituents

module physics_types
  use shr_kind_mod, only: r8 => shr_kind_r8
  use ppgrid, only: pver
  use constituents, only: pcnst
  implicit none
  private
  public :: physics_state, physics_ptend, physics_ptend_init

  type :: physics_state
    integer :: lchnk = 1, ncol = 0, psetcols = 0
    real(r8), allocatable :: t(:, :)      !! K (pcols, pver)
    real(r8), allocatable :: omega(:, :)  !! Pa s-1
    real(r8), allocatable :: pmid(:, :)   !! Pa
    real(r8), allocatable :: pdel(:, :)   !! Pa
    real(r8), allocatable :: rpdel(:, :)  !! Pa-1
    real(r8), allocatable :: zm(:, :)     !! m
    real(r8), allocatable :: pint(:, :)   !! Pa (pcols, pverp)
    real(r8), allocatable :: q(:, :, :)   !! kg kg-1 or kg-1 (pcols, pver, pcnst)
  end type physics_state

  type :: physics_ptend
    integer :: psetcols = 0
    character(len=24) :: name = ''
    logical :: lq(pcnst) = .false.
    real(r8), allocatable :: q(:, :, :)   !! s-1 times the constituent's (psetcols, pver, pcnst)
  end type physics_ptend

contains

  subroutine physics_ptend_init(ptend, psetcols, name, lq)
    type(physics_ptend), intent(out) :: ptend
    integer, intent(in) :: psetcols
    character(len=*), intent(in) :: name
    logical, intent(in), optional :: lq(pcnst)

    ptend%psetcols = psetcols
    ptend%name = name
    if (present(lq)) ptend%lq = lq
    if (any(ptend%lq)) allocate(ptend%q(psetcols, pver, pcnst), source=0._r8)
  end subroutine physics_ptend_init
end module physics_types

!> The buffer of fields that are not transported: turbulence and the aerosol within cloud droplets.
module physics_buffer
  use shr_kind_mod, only: r8 => shr_kind_r8
  use cam_abortutils, only: endrun
  use constituents, only: pcnst, cnst_name
  implicit none
  private
  public :: physics_buffer_desc, pbuf_get_index, pbuf_get_field, pbuf_size

  integer, parameter :: first_aerosol = 6, pbuf_size = 1 + pcnst - first_aerosol + 1

  type :: physics_buffer_desc
    real(r8), pointer :: fld(:, :) => null()
  end type physics_buffer_desc

contains

  !> 1: kvh (pcols, pverp), m2 s-1. Then so4_c1 and so on (pcols, pver), in the order of the constituents.
  integer function pbuf_get_index(name) result(idx)
    character(len=*), intent(in) :: name
    integer :: i

    idx = 1
    if (name == 'kvh') return
    do i = first_aerosol, pcnst
      idx = idx + 1
      if (name == cloud_borne_name(cnst_name(i))) return
    end do
    call endrun('pbuf_get_index: no field '//name)
  end function pbuf_get_index

  subroutine pbuf_get_field(pbuf, idx, field)
    type(physics_buffer_desc), pointer :: pbuf(:)
    integer, intent(in) :: idx
    real(r8), pointer :: field(:, :)

    field => pbuf(idx)%fld
  end subroutine pbuf_get_field

  !> so4_c1 for so4_a1.
  pure function cloud_borne_name(name) result(other)
    character(len=*), intent(in) :: name
    character(len=len(name)) :: other

    other = name
    other(index(name, '_a') + 1:index(name, '_a') + 1) = 'c'
  end function cloud_borne_name
end module physics_buffer

!> MAM4 with marine organic matter, as E3SM runs it (Liu et al. 2016, doi:10.5194/gmd-9-505-2016; Burrows et al. 2022).
module rad_constituents
  use shr_kind_mod, only: r8 => shr_kind_r8
  use cam_abortutils, only: endrun
  use constituents, only: cnst_get_ind
  use physics_buffer, only: physics_buffer_desc, pbuf_get_index, pbuf_get_field
  use physics_types, only: physics_state
  implicit none
  private
  public :: rad_cnst_get_info, rad_cnst_get_mode_num, rad_cnst_get_aer_mmr, rad_cnst_get_aer_props
  public :: rad_cnst_get_mode_props, rad_cnst_get_mam_mmr_idx, rad_cnst_get_mode_num_idx

  integer, parameter :: ntot_amode = 4
  integer, parameter :: nspec_amode(ntot_amode) = [7, 4, 7, 3]
  real(r8), parameter :: sigmag_amode(ntot_amode) = [1.8_r8, 1.6_r8, 1.8_r8, 1.6_r8]
  real(r8), parameter :: dgnumlo_amode(ntot_amode) = [0.0535e-6_r8, 0.0087e-6_r8, 1.0e-6_r8, 0.01e-6_r8]  !! m
  real(r8), parameter :: dgnumhi_amode(ntot_amode) = [0.44e-6_r8, 0.052e-6_r8, 4.0e-6_r8, 0.1e-6_r8]      !! m
  character(len=3), parameter :: species(7, ntot_amode) = reshape([character(len=3) :: &
    'so4', 'pom', 'soa', 'bc', 'dst', 'ncl', 'mom', 'so4', 'soa', 'ncl', 'mom', '', '', '', &
    'dst', 'ncl', 'so4', 'bc', 'pom', 'soa', 'mom', 'pom', 'bc', 'mom', '', '', '', ''], [7, ntot_amode])

  interface rad_cnst_get_info
    module procedure get_info_of_list
    module procedure get_info_by_mode
    module procedure get_info_by_mode_spec
  end interface rad_cnst_get_info

contains

  subroutine get_info_of_list(list_idx, gasnames, nmodes)
    integer, intent(in) :: list_idx
    character(len=*), intent(out), optional :: gasnames(:)  !! keeps this form apart from the next; no gases here
    integer, intent(out), optional :: nmodes

    call check_list(list_idx)
    if (present(gasnames)) gasnames = ''
    if (present(nmodes)) nmodes = ntot_amode
  end subroutine get_info_of_list

  subroutine get_info_by_mode(list_idx, m_idx, num_name, num_name_cw, nspec)
    integer, intent(in) :: list_idx, m_idx
    character(len=32), intent(out), optional :: num_name, num_name_cw
    integer, intent(out), optional :: nspec

    call check_list(list_idx)
    if (present(num_name)) num_name = field_name('num', 'a', m_idx)
    if (present(num_name_cw)) num_name_cw = field_name('num', 'c', m_idx)
    if (present(nspec)) nspec = nspec_amode(m_idx)
  end subroutine get_info_by_mode

  subroutine get_info_by_mode_spec(list_idx, m_idx, s_idx, spec_name, spec_name_cw)
    integer, intent(in) :: list_idx, m_idx, s_idx
    character(len=32), intent(out), optional :: spec_name, spec_name_cw

    call check_list(list_idx)
    if (present(spec_name)) spec_name = field_name(species(s_idx, m_idx), 'a', m_idx)
    if (present(spec_name_cw)) spec_name_cw = field_name(species(s_idx, m_idx), 'c', m_idx)
  end subroutine get_info_by_mode_spec

  subroutine rad_cnst_get_mode_props(list_idx, mode_idx, sigmag, dgnumlo, dgnumhi)
    integer, intent(in) :: list_idx, mode_idx
    real(r8), intent(out), optional :: sigmag, dgnumlo, dgnumhi  !! 1, m, m

    call check_list(list_idx)
    if (present(sigmag)) sigmag = sigmag_amode(mode_idx)
    if (present(dgnumlo)) dgnumlo = dgnumlo_amode(mode_idx)
    if (present(dgnumhi)) dgnumhi = dgnumhi_amode(mode_idx)
  end subroutine rad_cnst_get_mode_props

  subroutine rad_cnst_get_aer_props(list_idx, mode_idx, spec_idx, density_aer, hygro_aer)
    integer, intent(in) :: list_idx, mode_idx, spec_idx
    real(r8), intent(out), optional :: density_aer, hygro_aer  !! kg m-3, 1
    real(r8) :: density, hygroscopicity

    call check_list(list_idx)
    select case (species(spec_idx, mode_idx))
    case ('so4')
      density = 1770._r8; hygroscopicity = 0.507_r8
    case ('pom')
      density = 1000._r8; hygroscopicity = 1.e-10_r8
    case ('soa')
      density = 1000._r8; hygroscopicity = 0.14_r8
    case ('bc')
      density = 1700._r8; hygroscopicity = 1.e-10_r8
    case ('dst')
      density = 2600._r8; hygroscopicity = 0.068_r8
    case ('ncl')
      density = 1900._r8; hygroscopicity = 1.16_r8
    case default  ! mom
      density = 1601._r8; hygroscopicity = 0.1_r8
    end select
    if (present(density_aer)) density_aer = density
    if (present(hygro_aer)) hygro_aer = hygroscopicity
  end subroutine rad_cnst_get_aer_props

  subroutine rad_cnst_get_mode_num(list_idx, mode_idx, phase, state, pbuf, num)
    integer, intent(in) :: list_idx, mode_idx
    character(len=1), intent(in) :: phase
    type(physics_state), target, intent(in) :: state
    type(physics_buffer_desc), pointer :: pbuf(:)
    real(r8), pointer :: num(:, :)

    call check_list(list_idx)
    call get_field('num', mode_idx, phase, state, pbuf, num)
  end subroutine rad_cnst_get_mode_num

  subroutine rad_cnst_get_aer_mmr(list_idx, mode_idx, spec_idx, phase, state, pbuf, mmr)
    integer, intent(in) :: list_idx, mode_idx, spec_idx
    character(len=1), intent(in) :: phase
    type(physics_state), target, intent(in) :: state
    type(physics_buffer_desc), pointer :: pbuf(:)
    real(r8), pointer :: mmr(:, :)

    call check_list(list_idx)
    call get_field(species(spec_idx, mode_idx), mode_idx, phase, state, pbuf, mmr)
  end subroutine rad_cnst_get_aer_mmr

  subroutine rad_cnst_get_mode_num_idx(mode_idx, cnst_idx)
    integer, intent(in) :: mode_idx
    integer, intent(out) :: cnst_idx

    call cnst_get_ind(trim(field_name('num', 'a', mode_idx)), cnst_idx)
  end subroutine rad_cnst_get_mode_num_idx

  subroutine rad_cnst_get_mam_mmr_idx(mode_idx, spec_idx, idx)
    integer, intent(in) :: mode_idx, spec_idx
    integer, intent(out) :: idx

    call cnst_get_ind(trim(field_name(species(spec_idx, mode_idx), 'a', mode_idx)), idx)
  end subroutine rad_cnst_get_mam_mmr_idx

  !> Interstitial ('a') aerosol is transported, cloud-borne ('c') is in the buffer.
  subroutine get_field(name, mode, phase, state, pbuf, field)
    character(len=*), intent(in) :: name
    integer, intent(in) :: mode
    character(len=1), intent(in) :: phase
    type(physics_state), target, intent(in) :: state
    type(physics_buffer_desc), pointer :: pbuf(:)
    real(r8), pointer :: field(:, :)
    integer :: ind

    if (phase == 'a') then
      call cnst_get_ind(trim(field_name(name, phase, mode)), ind)
      field => state%q(:, :, ind)
    else
      call pbuf_get_field(pbuf, pbuf_get_index(trim(field_name(name, phase, mode))), field)
    end if
  end subroutine get_field

  pure function field_name(name, phase, mode)
    character(len=*), intent(in) :: name
    character(len=1), intent(in) :: phase
    integer, intent(in) :: mode
    character(len=32) :: field_name

    field_name = trim(name)//'_'//phase//achar(iachar('0') + mode)
  end function field_name

  subroutine check_list(list_idx)
    integer, intent(in) :: list_idx

    if (list_idx /= 0) call endrun('rad_constituents: there is the list of the climate only')
  end subroutine check_list
end module rad_constituents
