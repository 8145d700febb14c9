! Stand-in for E3SM's ndrop.F90: two calls of activate_modal, at growing cloud and at the base of old cloud, where the
! aerosol comes from the level below. The lines around them are as in E3SM, what is done with the results is not.
module ndrop
use shr_kind_mod,     only: r8 => shr_kind_r8
use physics_types,    only: physics_state, pcols, pver, ntot_amode
use cam_logfile,      only: iulog
implicit none
private
public ndrop_init, dropmixnuc, activate_modal
contains

subroutine ndrop_init()
   write(iulog,'(a)') ' ndrop_init'
end subroutine ndrop_init

subroutine dropmixnuc(state, grown, based)
   type(physics_state), target, intent(in) :: state
   real(r8), intent(out) :: grown(pcols,pver,ntot_amode), based(pcols,pver,ntot_amode)
   real(r8), pointer :: temp(:,:), pmid(:,:)
   real(r8) :: cs(pcols,pver), naermod(ntot_amode), vaerosol(ntot_amode), hygro(ntot_amode)
   real(r8) :: fn(ntot_amode), fm(ntot_amode), fluxn(ntot_amode), fluxm(ntot_amode), flux_fullact(pver)
   real(r8) :: wbar, wmix, wmin, wmax, wdiab
   integer :: i, k, kp1

   temp => state%t
   pmid => state%pmid
   cs = pmid/(287.04_r8*temp)
   wmix  = 0._r8
   wmin  = 0._r8
   wmax  = 10._r8
   wdiab = 0
   do i = 1, pcols
      do k = 1, pver
            wbar  = state%w(i,k)
            naermod = state%na(i,k,:); vaerosol = state%volume(i,k,:); hygro = state%hygro(i,k,:)

            call activate_modal( &
               wbar, wmix, wdiab, wmin, wmax,                       &
               temp(i,k), cs(i,k), naermod, ntot_amode, &
               vaerosol, hygro, fn, fm, fluxn,                      &
               fluxm,flux_fullact(k))

            grown(i,k,:) = fn
            kp1 = min(k+1, pver)
            naermod = state%na(i,kp1,:); vaerosol = state%volume(i,kp1,:); hygro = state%hygro(i,kp1,:)

               call activate_modal( &
                  wbar, wmix, wdiab, wmin, wmax,                       &
                  temp(i,k), cs(i,k), naermod, ntot_amode, &
                  vaerosol, hygro, fn, fm, fluxn,                      &
                  fluxm, flux_fullact(k))

            based(i,k,:) = fluxm
      end do
   end do
end subroutine dropmixnuc

subroutine activate_modal(wbar, sigw, wdiab, wminf, wmaxf, tair, rhoair,  &
   na, nmode, volume, hygro, fn, fm, fluxn, fluxm, flux_fullact, smax_prescribed)
   real(r8), intent(in) :: wbar, sigw, wdiab, wminf, wmaxf, tair, rhoair
   integer,  intent(in) :: nmode
   real(r8), intent(in) :: na(:), volume(:), hygro(:)
   real(r8), intent(out) :: fn(:), fm(:), fluxn(:), fluxm(:), flux_fullact
   real(r8), optional, intent(in) :: smax_prescribed

   ! a number of the right kind: this is not ARG
   fn = wbar/(wbar + sum(na(:nmode)*volume(:nmode)*hygro(:nmode))/rhoair) + 0*(tair + sigw + wdiab + wminf + wmaxf)
   if (present(smax_prescribed)) fn = smax_prescribed
   fm = fn
   fluxn = fn*wbar
   fluxm = fm*wbar
   flux_fullact = wbar
end subroutine activate_modal
end module ndrop
