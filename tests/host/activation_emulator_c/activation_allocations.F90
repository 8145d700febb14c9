!> How often a call of the drop-in allocates memory: activation_allocations model.onnx ... Prints a line for each model, scheme
!! and form of call: allocations of all calls but the first, which makes the thread's work space.
program activation_allocations
  use, intrinsic :: iso_c_binding, only: c_long
  use aerosol_activation_emulator, only: activation_emulator, activation_counters, activate_modal_emulator, &
    use_activation_emulator
  use aerosol_activation_constants, only: r8
  implicit none

  interface
    integer(c_long) function num_allocations() bind(c)
      import :: c_long
    end function num_allocations
  end interface

  integer, parameter :: n = 100
  character(len=8), parameter :: schemes(3) = ['emulator', 'both    ', 'arg     ']
  real(r8), dimension(n) :: w, tair, rhoair, rh, full
  real(r8), dimension(n, 4) :: na, volume, hygro, fn, fm, fluxn, fluxm, d, e
  real(r8), dimension(4, n) :: na_p, volume_p, hygro_p, fn_p, fm_p, fluxn_p, fluxm_p, d_p, e_p
  type(activation_emulator) :: emulator
  type(activation_counters) :: counters
  character(len=:), allocatable :: errmsg
  character(len=1024) :: path
  integer(c_long) :: before(5), after(5)
  integer :: i, k, argument, stat

  call make_states()
  do argument = 1, command_argument_count()
    call get_command_argument(argument, path)
    do k = 1, size(schemes)
      call emulator%connect(trim(path), stat, errmsg, scheme=trim(schemes(k)))
      if (stat /= 0) error stop 'connect failed'
      call use_activation_emulator(emulator)
      call batch(n)
      call current_form(1)
      counters = activation_counters()
      before(1) = num_allocations()
      call batch(n)
      after(1) = num_allocations()
      before(2) = num_allocations()
      call batch(7)
      after(2) = num_allocations()
      before(3) = num_allocations()
      do i = 1, n
        call current_form(i)
      end do
      after(3) = num_allocations()
      before(4) = num_allocations()
      do i = 1, n
        call refactored_form(i)
      end do
      after(4) = num_allocations()
      before(5) = num_allocations()
      call emulator%activate(n, n, 4, w, 10._r8, tair, rhoair, na, volume, hygro, fn, fm, stat)
      after(5) = num_allocations()
      print '(a, 5(1x, i0), 3(a, i0))', trim(schemes(k)), after - before, ', emulated ', counters%emulated, ', fallbacks ', &
        counters%fallbacks, ', early ', counters%early_returns
    end do
  end do

contains

  !> Most of them within the training ranges; some return early, some are outside.
  subroutine make_states()
    real(r8), parameter :: number(4) = [4.e8_r8, 5.e8_r8, 1.e6_r8, 2.e8_r8]                  ! m-3
    real(r8), parameter :: mean_volume(4) = [8.e-21_r8, 2.e-23_r8, 1.e-17_r8, 2.e-22_r8]  ! m3
    real(r8), parameter :: kappa(4) = [0.5_r8, 0.4_r8, 0.6_r8, 0.01_r8]
    integer :: m

    do i = 1, n
      w(i) = 0.1_r8*i - 0.5_r8
      tair(i) = 230._r8 + i
      rhoair(i) = 0.9_r8
      rh(i) = 0.9_r8
      do m = 1, 4
        na(i, m) = number(m)
        volume(i, m) = na(i, m)*mean_volume(m)
        hygro(i, m) = kappa(m)
      end do
    end do
    na_p = transpose(na)
    volume_p = transpose(volume)
    hygro_p = transpose(hygro)
    fn = 0._r8
    fm = 0._r8
  end subroutine make_states

  subroutine batch(ncol)
    integer, intent(in) :: ncol

    call emulator%activate(n, ncol, 4, w, 10._r8, tair, rhoair, na, volume, hygro, fn, fm, stat, rh=rh, fluxn=fluxn, &
      fluxm=fluxm, flux_fullact=full, counters=counters, fn_difference=d, fm_difference=e, errmsg=errmsg)
    if (stat /= 0) error stop 'activate failed'
  end subroutine batch

  subroutine current_form(i)
    integer, intent(in) :: i

    call activate_modal_emulator(w(i), 0._r8, 0._r8, 0._r8, 10._r8, tair(i), rhoair(i), na_p(:, i), 4, volume_p(:, i), &
      hygro_p(:, i), fn_p(:, i), fm_p(:, i), fluxn_p(:, i), fluxm_p(:, i), full(i), rh=rh(i))
  end subroutine current_form

  subroutine refactored_form(i)
    integer, intent(in) :: i

    call activate_modal_emulator(w(i), 10._r8, tair(i), rhoair(i), na_p(:, i), 4, volume_p(:, i), hygro_p(:, i), fn_p(:, i), &
      fm_p(:, i), fluxn_p(:, i), fluxm_p(:, i), full(i), rh=rh(i), emulator=emulator, counters=counters, &
      fn_difference=d_p(:, i), fm_difference=e_p(:, i), stat=stat, errmsg=errmsg)
    if (stat /= 0) error stop 'activate_modal_emulator failed'
  end subroutine refactored_form
end program activation_allocations
