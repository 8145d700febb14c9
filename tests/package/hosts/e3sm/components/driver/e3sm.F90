! The driver: as the first task, then as another one; the activated fractions and fluxes, in full, to results.txt
program e3sm
  use shr_kind_mod, only: r8 => shr_kind_r8
  use microp_aero, only: microp_aero_readnl, microp_aero_init
  use ndrop, only: dropmixnuc
  use physics_types, only: physics_state, set_state, pcols, pver, ntot_amode
  use shr_mpi_mod, only: shr_mpi_rewind
  use spmd_utils, only: masterproc
  implicit none
  type(physics_state) :: state
  real(r8) :: grown(pcols, pver, ntot_amode), based(pcols, pver, ntot_amode)
  integer :: task, unit

  open(newunit=unit, file='results.txt', status='replace')
  do task = 0, 1
    masterproc = task == 0
    call shr_mpi_rewind()
    call microp_aero_readnl('atm_in')
    call microp_aero_init()
    call set_state(state)
    call dropmixnuc(state, grown, based)
    write(unit, '(es25.17)') grown, based
  end do
end program e3sm
