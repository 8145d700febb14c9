! usage: direct MODEL. The states of the stand-in for E3SM through the drop-in itself, many points at once: what its
! results.txt must hold, twice.
program direct
  use aerosol_activation_emulator, only: activation_emulator, relative_humidity
  use shr_kind_mod, only: r8 => shr_kind_r8
  use physics_types, only: physics_state, set_state, pcols, pver, ntot_amode
  implicit none
  integer, parameter :: points = pcols * pver
  type(activation_emulator) :: emulator
  type(physics_state) :: state
  character(len=:), allocatable :: errmsg
  character(len=1000) :: path
  real(r8), dimension(points) :: w, t, p, rho, rh, flux_fullact
  real(r8), dimension(points, ntot_amode) :: fn, fm, fluxn, fluxm
  real(r8), dimension(pcols, pver, ntot_amode) :: na, volume, hygro
  integer :: stat, task

  call get_command_argument(1, path)
  call emulator%connect(trim(path), stat, errmsg)
  if (stat /= 0) error stop 1
  call set_state(state)
  w = reshape(state%w, [points])
  t = reshape(state%t, [points])
  p = reshape(state%pmid, [points])
  rho = p / (287.04_r8 * t)
  rh = relative_humidity(reshape(state%q(:, :, 1), [points]), t, p)
  do task = 0, 1
    call activate(state%na, state%volume, state%hygro)
    write(*, '(es25.17)') fn
    na = state%na(:, [2, 3, 4, 5, 6, 6], :)
    volume = state%volume(:, [2, 3, 4, 5, 6, 6], :)
    hygro = state%hygro(:, [2, 3, 4, 5, 6, 6], :)
    call activate(na, volume, hygro)
    write(*, '(es25.17)') fluxm
  end do
contains
  subroutine activate(na, volume, hygro)
    real(r8), intent(in), dimension(pcols, pver, ntot_amode) :: na, volume, hygro
    fn = 0; fm = 0; fluxn = 0; fluxm = 0; flux_fullact = 0
    call emulator%activate(points, points, ntot_amode, w, 10._r8, t, rho, reshape(na, [points, ntot_amode]), &
      reshape(volume, [points, ntot_amode]), reshape(hygro, [points, ntot_amode]), fn, fm, stat, rh=rh, fluxn=fluxn, &
      fluxm=fluxm, flux_fullact=flux_fullact)
    if (stat /= 0) error stop 2
  end subroutine activate
end program direct
