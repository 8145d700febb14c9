!> The drop-in over many points, callable from C. Modes are the first axis where a routine takes one point at a time, and
!! the second where it takes many. Optional arguments are null pointers where absent.
module activation_emulator_c
  use, intrinsic :: iso_c_binding, only: c_char, c_int, c_int8_t, c_int64_t, c_double, c_null_char
  use aerosol_activation_emulator, only: activation_emulator, activation_counters, activate_modal_emulator, &
    use_activation_emulator, relative_humidity
  use aerosol_activation_mass, only: mass_from_number
  implicit none
  private
  public :: c_connect, c_connect_bytes, c_share, c_free, c_use, c_describe, c_activate, c_activate_points, c_relative_humidity
  public :: c_mass

  type(activation_emulator), save :: emulators(16)

contains

  !> result_of, scheme, path: texts of fixed length, padded with blanks.
  subroutine c_connect(handle, path, scheme, result_of, fallback, margin, rh_if_absent, stat, message) bind(c)
    integer(c_int), value :: handle, fallback
    character(kind=c_char), intent(in) :: path(512), scheme(16), result_of(16)
    real(c_double), value :: margin
    real(c_double), intent(in), optional :: rh_if_absent
    integer(c_int), intent(out) :: stat
    character(kind=c_char), intent(out) :: message(512)
    character(len=:), allocatable :: errmsg

    call emulators(handle)%connect(trim(text(path)), stat, errmsg, scheme=trim(text(scheme)), &
      result_of=trim(text(result_of)), fallback=fallback /= 0, margin=margin, rh_if_absent=rh_if_absent)
    call put(errmsg, message)
  end subroutine c_connect

  subroutine c_connect_bytes(handle, size, bytes, stat, message) bind(c)
    integer(c_int), value :: handle, size
    integer(c_int8_t), intent(in) :: bytes(size)
    integer(c_int), intent(out) :: stat
    character(kind=c_char), intent(out) :: message(512)
    character(len=:), allocatable :: errmsg

    call emulators(handle)%connect(bytes, stat, errmsg)
    call put(errmsg, message)
  end subroutine c_connect_bytes

  !> emulators(to) = emulators(from)
  subroutine c_share(from, to) bind(c)
    integer(c_int), value :: from, to

    emulators(to) = emulators(from)
  end subroutine c_share

  subroutine c_free(handle) bind(c)
    integer(c_int), value :: handle

    call emulators(handle)%free()
  end subroutine c_free

  subroutine c_use(handle) bind(c)
    integer(c_int), value :: handle

    call use_activation_emulator(emulators(handle))
  end subroutine c_use

  subroutine c_describe(handle, is_connected, message) bind(c)
    integer(c_int), value :: handle
    integer(c_int), intent(out) :: is_connected
    character(kind=c_char), intent(out) :: message(512)
    character(len=:), allocatable :: line

    is_connected = merge(1, 0, emulators(handle)%is_connected())
    line = emulators(handle)%scheme()//' | '//emulators(handle)%describe()
    call put(line, message)
  end subroutine c_describe

  !> The batched form in one call.
  subroutine c_activate(handle, ld, ncol, nmode, w, tair, rhoair, rh, na, volume, hygro, fn, fm, fluxn, fluxm, full, &
      fn_difference, fm_difference, smax, needs_first_mode, counts, stat, message) bind(c)
    integer(c_int), value :: handle, ld, ncol, nmode, needs_first_mode
    real(c_double), intent(in) :: w(ld), tair(ld), rhoair(ld), na(ld, nmode), volume(ld, nmode), hygro(ld, nmode)
    real(c_double), intent(in), optional :: rh(ld), smax
    real(c_double), intent(inout) :: fn(ld, nmode), fm(ld, nmode)
    real(c_double), intent(inout), optional :: fluxn(ld, nmode), fluxm(ld, nmode), full(ld)
    real(c_double), intent(inout), optional :: fn_difference(ld, nmode), fm_difference(ld, nmode)
    integer(c_int64_t), intent(inout) :: counts(55)
    integer(c_int), intent(out) :: stat
    character(kind=c_char), intent(out) :: message(512)
    character(len=:), allocatable :: errmsg
    type(activation_counters) :: counters

    call emulators(handle)%activate(ld, ncol, nmode, w, 10._c_double, tair, rhoair, na, volume, hygro, fn, fm, stat, rh=rh, &
      fluxn=fluxn, fluxm=fluxm, flux_fullact=full, smax_prescribed=smax, counters=counters, fn_difference=fn_difference, &
      fm_difference=fm_difference, errmsg=errmsg, needs_first_mode=needs_first_mode /= 0)
    call add(counters, counts)
    call put(errmsg, message)
  end subroutine c_activate

  !> n points one by one: form 1 with E3SM's current arguments, form 2 with the refactored ones; handle 0: the emulator
  !! of c_use. stat is that of the last point that failed.
  subroutine c_activate_points(handle, form, n, nmode, w, sigw, wdiab, tair, rhoair, rh, na, volume, hygro, fn, fm, fluxn, &
      fluxm, full, fn_difference, fm_difference, smax, counts, stat, message) bind(c)
    integer(c_int), value :: handle, form, n, nmode
    real(c_double), value :: sigw, wdiab
    real(c_double), intent(in) :: w(n), tair(n), rhoair(n), na(4, n), volume(4, n), hygro(4, n)
    real(c_double), intent(in), optional :: rh(n), smax
    real(c_double), intent(out) :: fn(4, n), fm(4, n), fluxn(4, n), fluxm(4, n), full(n), fn_difference(4, n), &
      fm_difference(4, n)
    integer(c_int64_t), intent(inout) :: counts(55)
    integer(c_int), intent(out) :: stat
    character(kind=c_char), intent(out) :: message(512)
    character(len=:), allocatable :: errmsg
    type(activation_counters) :: counters
    integer :: i

    stat = 0
    do i = 1, n
      if (present(rh)) then
        call one(i, rh(i))
      else
        call one(i)
      end if
    end do
    call add(counters, counts)
    call put(errmsg, message)

  contains

    subroutine one(i, rh_i)
      integer, intent(in) :: i
      real(c_double), intent(in), optional :: rh_i
      integer :: code

      if (handle == 0 .and. form == 1) then
        call activate_modal_emulator(w(i), sigw, wdiab, 0._c_double, 10._c_double, tair(i), rhoair(i), na(:, i), nmode, &
          volume(:, i), hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), smax, rh=rh_i, &
          counters=counters, fn_difference=fn_difference(:, i), fm_difference=fm_difference(:, i), stat=code, errmsg=errmsg)
      else if (form == 1) then
        call activate_modal_emulator(w(i), sigw, wdiab, 0._c_double, 10._c_double, tair(i), rhoair(i), na(:, i), nmode, &
          volume(:, i), hygro(:, i), fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), smax, rh_i, emulators(handle), &
          counters, fn_difference(:, i), fm_difference(:, i), code, errmsg)
      else
        call activate_modal_emulator(w(i), 10._c_double, tair(i), rhoair(i), na(:, i), nmode, volume(:, i), hygro(:, i), &
          fn(:, i), fm(:, i), fluxn(:, i), fluxm(:, i), full(i), smax, rh_i, emulators(handle), counters, &
          fn_difference(:, i), fm_difference(:, i), code, errmsg)
      end if
      if (code /= 0) stat = code
    end subroutine one
  end subroutine c_activate_points

  subroutine c_relative_humidity(n, humidity, tair, pressure, rh) bind(c)
    integer(c_int), value :: n
    real(c_double), intent(in) :: humidity(n), tair(n), pressure(n)
    real(c_double), intent(out) :: rh(n)

    rh = relative_humidity(humidity, tair, pressure)
  end subroutine c_relative_humidity

  subroutine c_mass(n, fn, fm) bind(c)
    integer(c_int), value :: n
    real(c_double), intent(in) :: fn(4, n)
    real(c_double), intent(out) :: fm(4, n)
    integer :: i

    do i = 1, n
      call mass_from_number(1, fn(:, i), fm(:, i))
    end do
  end subroutine c_mass

  subroutine add(counters, counts)
    type(activation_counters), intent(in) :: counters
    integer(c_int64_t), intent(inout) :: counts(55)

    counts = counts + [counters%points, counters%early_returns, counters%prescribed, counters%arg, counters%emulated, &
      counters%fallbacks, counters%failures, counters%low, counters%high, counters%nan]
  end subroutine add

  pure function text(characters)
    character(kind=c_char), intent(in) :: characters(:)
    character(len=size(characters)) :: text
    integer :: i

    do i = 1, size(characters)
      text(i:i) = characters(i)
    end do
  end function text

  subroutine put(message, characters)
    character(len=:), allocatable, intent(in) :: message
    character(kind=c_char), intent(out) :: characters(512)
    integer :: i

    characters = c_null_char
    if (.not. allocated(message)) return
    do i = 1, min(len(message), 511)
      characters(i) = message(i:i)
    end do
  end subroutine put
end module activation_emulator_c
