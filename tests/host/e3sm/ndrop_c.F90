!> E3SM's ndrop, callable from C: its `activate_modal` over many points, its `dropmixnuc` on one chunk.
module ndrop_c
  use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int
  use cam_history, only: history_field
  use constituents, only: pcnst
  use ndrop, only: activate_modal, dropmixnuc, ndrop_init
  use physics_buffer, only: pbuf_size, physics_buffer_desc
  use physics_types, only: physics_ptend, physics_state
  use ppgrid, only: pcols, pver, pverp
  use wv_saturation, only: wv_sat_init
  implicit none
  private
  public :: c_ndrop_init, c_activate_modal_e3sm, c_dropmixnuc, c_history_field

contains

  !> Once, first of all.
  subroutine c_ndrop_init(columns) bind(c)
    integer(c_int), value :: columns  !! in a chunk, at most

    pcols = columns
    call wv_sat_init()
    call ndrop_init()
  end subroutine c_ndrop_init

  !> With `prescribed` 0 the supersaturation of `smax` is not passed on.
  subroutine c_activate_modal_e3sm(n, nmode, w, sigw, wdiab, wmin, wmax, t, rho, na, volume, hygro, prescribed, &
      smax, fn, fm, fluxn, fluxm, full) bind(c)
    integer(c_int), value :: n, nmode, prescribed
    real(c_double), value :: sigw, wmin, wmax
    real(c_double), intent(in) :: w(n), wdiab(n), t(n), rho(n), smax(n)
    real(c_double), intent(in) :: na(nmode, n), volume(nmode, n), hygro(nmode, n)
    real(c_double), intent(out) :: fn(nmode, n), fm(nmode, n), fluxn(nmode, n), fluxm(nmode, n), full(n)
    real(c_double) :: s
    integer :: i

    do i = 1, n
      if (prescribed /= 0) then
        s = smax(i)
        call activate_modal(w(i), sigw, wdiab(i), wmin, wmax, t(i), rho(i), na(:, i), nmode, volume(:, i), &
          hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), s)
      else
        call activate_modal(w(i), sigw, wdiab(i), wmin, wmax, t(i), rho(i), na(:, i), nmode, volume(:, i), &
          hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i))
      end if
    end do
  end subroutine c_activate_modal_e3sm

  !> One step of E3SM's vertical mixing and nucleation of droplets, on the first `ncol` columns of a chunk.
  subroutine c_dropmixnuc(ncol, dtmicro, t, pmid, pint, pdel, zm, q, kvh, cloud_borne, wsub, cldn, cldo, &
      tendency, tendnd, factnum) bind(c)
    integer(c_int), value :: ncol
    real(c_double), value :: dtmicro  !! s
    real(c_double), intent(in), dimension(pcols, pver) :: t, pmid, pdel, zm, wsub, cldn, cldo
    real(c_double), intent(in) :: pint(pcols, pverp)
    real(c_double), intent(in) :: q(pcols, pver, pcnst)
    real(c_double), intent(inout), target :: kvh(pcols, pverp)
    real(c_double), intent(inout), target :: cloud_borne(pcols, pver, pbuf_size - 1)
    real(c_double), intent(out) :: tendency(pcols, pver, pcnst), tendnd(pcols, pver), factnum(pcols, pver, 4)
    type(physics_state) :: state
    type(physics_ptend) :: ptend
    type(physics_buffer_desc), pointer :: pbuf(:)
    integer :: m

    state%ncol = ncol
    state%psetcols = pcols
    state%t = t
    state%pmid = pmid
    state%pint = pint
    state%pdel = pdel
    state%rpdel = 1._c_double/pdel
    state%zm = zm
    state%q = q
    allocate(state%omega(pcols, pver), source=0._c_double)  ! ndrop points at it and does no more
    allocate(pbuf(pbuf_size))
    pbuf(1)%fld => kvh
    do m = 1, pbuf_size - 1
      pbuf(1 + m)%fld => cloud_borne(:, :, m)
    end do
    tendnd = 0._c_double
    call dropmixnuc(state, ptend, dtmicro, pbuf, wsub, cldn, cldo, tendnd, factnum)
    tendency = ptend%q
    deallocate(pbuf)
  end subroutine c_dropmixnuc

  !> What `outfld` was given last under a name.
  subroutine c_history_field(length, name, num_levels, values) bind(c)
    integer(c_int), value :: length, num_levels
    character(kind=c_char), intent(in) :: name(length)
    real(c_double), intent(out) :: values(pcols, num_levels)
    character(len=length) :: fname
    integer :: i

    do i = 1, length
      fname(i:i) = name(i)
    end do
    values = history_field(fname)
  end subroutine c_history_field
end module ndrop_c
