!> What the host found, as a table for people and as JSON for programs.
module host_report
  use, intrinsic :: ieee_arithmetic, only: ieee_is_finite
  use, intrinsic :: iso_fortran_env, only: output_unit, compiler_version
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_mapping, only: known_input_names
  use host_config, only: config_t
  use host_errors, only: fraction_errors_t, r2_is_meaningful, meaningful_spread
  use host_scheme, only: scheme_t
  implicit none
  private
  public :: run_t, print_table, write_json

  !> How it was run.
  type :: run_t
    integer :: num_samples = 0, num_points = 0, num_chunks = 0, num_threads = 1
    character(len=:), allocatable :: flags  !! of the compiler
  end type run_t

contains

  subroutine print_table(config, run, schemes)
    type(config_t), intent(in) :: config
    type(run_t), intent(in) :: run
    type(scheme_t), intent(in) :: schemes(:)
    integer :: s

    write(output_unit, '(a, i0, a, i0, 5(a, i0), 3a)') 'activation_host: ', run%num_samples, ' samples on ', &
      run%num_points, ' points: ', run%num_chunks, ' chunks of up to ', config%pcols, ' columns x ', config%pver, &
      ' levels; threads ', run%num_threads, ', timed passes ', config%repeats, '; a call per ', trim(config%batching), &
      '.'
    write(output_unit, '(3a)') compiler_version(), ', ', run%flags
    do s = 1, size(schemes)
      if (schemes(s)%name == 'emulator') write(output_unit, '(a)') schemes(s)%by%describe()
    end do
    write(output_unit, '(/, a)') 'scheme    ns/point  MSE of number fraction fn; by mode (R2): 1                 2'// &
      '                 3                 4  RMSE of number'
    do s = 1, size(schemes)
      write(output_unit, '(a8, f10.1, es11.3, 23x, a, f11.3, a)') schemes(s)%name, schemes(s)%ns_per_point, &
        schemes(s)%errors%fn%mse, by_mode(schemes(s)%errors%fn), schemes(s)%errors%number_rmse_cm3, ' cm-3'
    end do
    write(output_unit, '(/, a)') 'scheme              MSE of mass fraction fm; by mode (R2):   1                 2'// &
      '                 3                 4'
    do s = 1, size(schemes)
      write(output_unit, '(a8, 10x, es11.3, 23x, a)') schemes(s)%name, schemes(s)%errors%fm%mse, &
        by_mode(schemes(s)%errors%fm)
    end do
    write(output_unit, '(/, a)') 'ns/point: thread time, median over passes, from the host''s state to fn, fm, '// &
      'fluxes and activated number; counters off.'
    if (.not. all(r2_is_meaningful([schemes(1)%errors%fn%truth_spread, schemes(1)%errors%fm%truth_spread]))) &
      write(output_unit, '(a, f0.3, a)') "R2 (-): the parcel model's fraction of that mode hardly varies (standard "// &
      'deviation below 0', meaningful_spread, '), so there is no variance to explain.'
    do s = 1, size(schemes)
      if (schemes(s)%name == 'emulator') call print_counters(schemes(s))
    end do
  end subroutine print_table

  subroutine print_counters(scheme)
    type(scheme_t), intent(in) :: scheme
    integer :: i

    associate (c => scheme%counters)
      write(output_unit, '(3(a, i0))') 'Points: emulated ', c%emulated, &
        ', outside of the training range and left to ARG ', c%fallbacks, ', without aerosol or updraft ', c%early_returns
      do i = 1, size(known_input_names)
        if (c%low(i) + c%high(i) > 0) write(output_unit, '(3a, 2(a, i0))') '  ', trim(known_input_names(i)), &
          ' beyond its range:', ' below ', c%low(i), ', above ', c%high(i)
      end do
    end associate
  end subroutine print_counters

  subroutine write_json(path, config, run, schemes, errmsg)
    character(len=*), intent(in) :: path
    type(config_t), intent(in) :: config
    type(run_t), intent(in) :: run
    type(scheme_t), intent(in) :: schemes(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: unit, iostat, s
    character(len=512) :: iomsg

    open(newunit=unit, file=path, status='replace', action='write', iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) then
      errmsg = "output file '"//path//"' cannot be written: "//trim(iomsg)
      return
    end if
    write(unit, '(a)') '{', '  "schema": 2,'
    write(unit, '(3a)') '  "samples_file": ', quoted(trim(config%samples)), ','
    write(unit, '(a, i0, a)') '  "samples": ', run%num_samples, ','
    write(unit, '(a, i0, a)') '  "points": ', run%num_points, ','
    write(unit, '(a, i0, a)') '  "chunks": ', run%num_chunks, ','
    write(unit, '(a, i0, a)') '  "pcols": ', config%pcols, ','
    write(unit, '(a, i0, a)') '  "pver": ', config%pver, ','
    write(unit, '(a, i0, a)') '  "threads": ', run%num_threads, ','
    write(unit, '(a, i0, a)') '  "repeats": ', config%repeats, ','
    write(unit, '(3a)') '  "batching": ', quoted(trim(config%batching)), ','
    write(unit, '(3a)') '  "compiler": ', quoted(compiler_version()), ','
    write(unit, '(3a)') '  "compiler_options": ', quoted(run%flags), ','
    write(unit, '(3a)') '  "r2_null_below_spread": ', number(meaningful_spread), ','
    do s = 1, size(schemes)
      call write_scheme(unit, trim(config%model), schemes(s))
      write(unit, '(2a)') '  }', trim(merge(' ', ',', s == size(schemes)))
    end do
    write(unit, '(a)') '}'
    close(unit, iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) errmsg = "output file '"//path//"' cannot be written: "//trim(iomsg)
  end subroutine write_json

  subroutine write_scheme(unit, model, scheme)
    integer, intent(in) :: unit
    character(len=*), intent(in) :: model
    type(scheme_t), intent(in) :: scheme

    write(unit, '(3a)') '  ', quoted(scheme%name), ': {'
    if (scheme%by%is_connected()) then
      write(unit, '(3a)') '    "model": ', quoted(model), ','
      write(unit, '(3a)') '    "described": ', quoted(scheme%by%describe()), ','
      write(unit, '(a, i0, a)') '    "emulated": ', scheme%counters%emulated, ','
      write(unit, '(a, i0, a)') '    "fallbacks": ', scheme%counters%fallbacks, ','
    end if
    write(unit, '(3a)') '    "ns_per_point": ', number(scheme%ns_per_point), ','
    write(unit, '(3a)') '    "fn": ', errors_of(scheme%errors%fn), ','
    write(unit, '(3a)') '    "fm": ', errors_of(scheme%errors%fm), ','
    write(unit, '(3a)') '    "number_rmse_cm3": ', number(scheme%errors%number_rmse_cm3), ','
    write(unit, '(3a)') '    "number_bias_cm3": ', number(scheme%errors%number_bias_cm3), ','
    write(unit, '(2a)') '    "number_r2": ', number(scheme%errors%number_r2)
  end subroutine write_scheme

  function errors_of(errors) result(text)
    type(fraction_errors_t), intent(in) :: errors
    character(len=:), allocatable :: text

    text = '{"mse": '//number(errors%mse)//', "mse_per_mode": '//list(errors%mse_per_mode)//', "r2_per_mode": '// &
      list(errors%r2_per_mode, r2_is_meaningful(errors%truth_spread))//', "max_error_per_mode": '// &
      list(errors%max_error_per_mode)//'}'
  end function errors_of

  !> MSE of each mode, and R2 in brackets, '-' where it means nothing.
  function by_mode(errors) result(text)
    type(fraction_errors_t), intent(in) :: errors
    character(len=:), allocatable :: text
    character(len=18) :: mode
    character(len=8) :: r2
    integer :: m

    text = ''
    do m = 1, num_modes
      if (.not. ieee_is_finite(errors%r2_per_mode(m))) then
        r2 = ' (NaN)'
      else if (.not. r2_is_meaningful(errors%truth_spread(m))) then
        r2 = ' (-)'
      else if (errors%r2_per_mode(m) < 0._r8) then
        r2 = ' (<0)'
      else
        write(r2, '(a, f5.3, a)') ' (', min(errors%r2_per_mode(m), 1._r8), ')'
      end if
      write(mode, '(es10.2, a)') errors%mse_per_mode(m), r2
      text = text//mode
    end do
  end function by_mode

  !> null where `means` is false.
  function list(values, means) result(text)
    real(r8), intent(in) :: values(:)
    logical, intent(in), optional :: means(:)
    character(len=:), allocatable :: text
    logical :: shown
    integer :: m

    text = '['
    do m = 1, size(values)
      shown = .true.
      if (present(means)) shown = means(m)
      if (shown) then
        text = text//number(values(m))
      else
        text = text//'null'
      end if
      if (m < size(values)) text = text//', '
    end do
    text = text//']'
  end function list

  !> Digits that give the same double back; JSON has no NaN, so what is not finite becomes null.
  function number(value) result(text)
    real(r8), intent(in) :: value
    character(len=:), allocatable :: text
    character(len=32) :: buffer

    if (ieee_is_finite(value)) then
      write(buffer, '(es24.16e3)') value
      text = trim(adjustl(buffer))
    else
      text = 'null'
    end if
  end function number

  function quoted(value) result(text)
    character(len=*), intent(in) :: value
    character(len=:), allocatable :: text
    integer :: i

    text = '"'
    do i = 1, len(value)
      if (value(i:i) == '"' .or. value(i:i) == '\') text = text//'\'
      if (iachar(value(i:i)) >= 32) text = text//value(i:i)
    end do
    text = text//'"'
  end function quoted
end module host_report
