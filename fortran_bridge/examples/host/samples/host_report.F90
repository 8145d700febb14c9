!> What the host found, as a table for people and as JSON for programs.
module host_report
  use, intrinsic :: ieee_arithmetic, only: ieee_is_finite
  use, intrinsic :: iso_fortran_env, only: output_unit, compiler_version
  use aerosol_activation_constants, only: r8, num_modes
  use host_config, only: config_t
  use host_errors, only: errors_t, r2_is_meaningful, meaningful_spread
  use host_run, only: timing_t
  implicit none
  private
  public :: result_t, print_table, write_json

  type :: result_t
    character(len=:), allocatable :: name           !! key in the JSON file
    type(errors_t) :: errors
    real(r8) :: ns_per_point = -1._r8
    real(r8) :: ns_per_point_number_only = -1._r8   !! negative: does not apply
    integer :: parameters = -1                      !! of the network; negative: does not apply
  end type result_t

contains

  subroutine print_table(config, timing, num_chunks, flags, results)
    type(config_t), intent(in) :: config
    type(timing_t), intent(in) :: timing
    integer, intent(in) :: num_chunks
    character(len=*), intent(in) :: flags
    type(result_t), intent(in) :: results(:)
    character(len=8) :: r2(num_modes)
    integer :: i, m

    write(output_unit, '(a, i0, a, i0, 5(a, i0), 3a)') 'activation_host: ', results(1)%errors%num_samples, &
      ' samples on ', timing%points, ' points: ', num_chunks, ' chunks of up to ', config%pcols, ' columns x ', &
      config%pver, ' levels; threads ', timing%threads, ', timed passes ', config%repeats, &
      '; emulator called once per ', trim(config%batching), '.'
    write(output_unit, '(4a)') compiler_version(), ', ', flags, new_line('a')
    write(output_unit, '(a)') 'scheme    ns/point     MSE of fn   MSE (R2) by mode: 1                 2         '// &
      '        3                 4    RMSE of number'
    do i = 1, size(results)
      r2 = r2_text(results(i)%errors)
      write(output_unit, '(a8, f10.1, es14.3, 4x, 4(es10.2, a8), f11.3, a)') results(i)%name, results(i)%ns_per_point, &
        results(i)%errors%mse, (results(i)%errors%mse_per_mode(m), r2(m), m = 1, num_modes), &
        results(i)%errors%number_rmse_cm3, ' cm-3'
    end do
    write(output_unit, '(/, a)') &
      'ns/point: thread time, median over passes, from the host''s state to activated number.'
    do i = 1, size(results)
      if (results(i)%ns_per_point_number_only > 0._r8) write(output_unit, '(a, f0.1, a)') &
        'arg: every output of activate_modal, a call per point, as E3SM does; number only, a call per level: ', &
        results(i)%ns_per_point_number_only, ' ns.'
    end do
    if (.not. all(r2_is_meaningful(results(1)%errors%truth_spread))) write(output_unit, '(a, f0.3, a)') &
      "R2 (-): the parcel model's fn of that mode hardly varies (standard deviation below 0", meaningful_spread, &
      '), so there is no variance to explain.'
  end subroutine print_table

  subroutine write_json(path, config, timing, num_chunks, flags, isa, results, errmsg)
    character(len=*), intent(in) :: path
    type(config_t), intent(in) :: config
    type(timing_t), intent(in) :: timing
    integer, intent(in) :: num_chunks
    character(len=*), intent(in) :: flags
    character(len=*), intent(in) :: isa  !! instruction set of the emulator's kernels
    type(result_t), intent(in) :: results(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: unit, iostat, i
    character(len=512) :: iomsg

    open(newunit=unit, file=path, status='replace', action='write', iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) then
      errmsg = "output file '"//path//"' cannot be written: "//trim(iomsg)
      return
    end if
    write(unit, '(a)') '{'
    write(unit, '(a)') '  "schema": 1,'
    write(unit, '(3a)') '  "samples_file": ', quoted(trim(config%samples)), ','
    write(unit, '(3a)') '  "model": ', merge_null(config%runs_emulator(), quoted(trim(config%model))), ','
    write(unit, '(3a)') '  "isa": ', merge_null(config%runs_emulator(), quoted(isa)), ','
    write(unit, '(a, i0, a)') '  "samples": ', results(1)%errors%num_samples, ','
    write(unit, '(a, i0, a)') '  "points": ', timing%points, ','
    write(unit, '(a, i0, a)') '  "chunks": ', num_chunks, ','
    write(unit, '(a, i0, a)') '  "pcols": ', config%pcols, ','
    write(unit, '(a, i0, a)') '  "pver": ', config%pver, ','
    write(unit, '(a, i0, a)') '  "threads": ', timing%threads, ','
    write(unit, '(a, i0, a)') '  "repeats": ', config%repeats, ','
    write(unit, '(3a)') '  "batching": ', quoted(trim(config%batching)), ','
    write(unit, '(3a)') '  "compiler": ', quoted(compiler_version()), ','
    write(unit, '(3a)') '  "compiler_options": ', quoted(flags), ','
    write(unit, '(3a)') '  "r2_null_below_spread": ', number(meaningful_spread), ','
    do i = 1, size(results)
      call write_result(unit, results(i), last=i == size(results))
    end do
    write(unit, '(a)') '}'
    close(unit, iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) errmsg = "output file '"//path//"' cannot be written: "//trim(iomsg)
  end subroutine write_json

  subroutine write_result(unit, result, last)
    integer, intent(in) :: unit
    type(result_t), intent(in) :: result
    logical, intent(in) :: last

    write(unit, '(3a)') '  ', quoted(result%name), ': {'
    write(unit, '(3a)') '    "mse": ', number(result%errors%mse), ','
    write(unit, '(3a)') '    "mse_per_mode": ', list(result%errors%mse_per_mode), ','
    write(unit, '(3a)') '    "r2_per_mode": ', r2_list(result%errors), ','
    write(unit, '(3a)') '    "max_error_per_mode": ', list(result%errors%max_error_per_mode), ','
    write(unit, '(3a)') '    "number_rmse_cm3": ', number(result%errors%number_rmse_cm3), ','
    write(unit, '(3a)') '    "number_bias_cm3": ', number(result%errors%number_bias_cm3), ','
    write(unit, '(3a)') '    "number_r2": ', number(result%errors%number_r2), ','
    if (result%parameters >= 0) write(unit, '(a, i0, a)') '    "parameters": ', result%parameters, ','
    if (result%ns_per_point_number_only > 0._r8) write(unit, '(3a)') &
      '    "ns_per_point_number_only": ', number(result%ns_per_point_number_only), ','
    write(unit, '(2a)') '    "ns_per_point": ', number(result%ns_per_point)
    write(unit, '(2a)') '  }', trim(merge(' ', ',', last))
  end subroutine write_result

  !> R2 of each mode in brackets, '-' where it means nothing.
  pure function r2_text(errors) result(text)
    type(errors_t), intent(in) :: errors
    character(len=8) :: text(num_modes)
    integer :: m

    do m = 1, num_modes
      if (.not. ieee_is_finite(errors%r2_per_mode(m))) then
        text(m) = ' (NaN)'
      else if (r2_is_meaningful(errors%truth_spread(m))) then
        write(text(m), '(a, f5.3, a)') ' (', min(max(errors%r2_per_mode(m), -9.999_r8), 1._r8), ')'
        if (errors%r2_per_mode(m) < 0._r8) text(m) = ' (<0)'
      else
        text(m) = ' (-)'
      end if
    end do
  end function r2_text

  function r2_list(errors) result(text)
    type(errors_t), intent(in) :: errors
    character(len=:), allocatable :: text
    integer :: m

    text = '['
    do m = 1, num_modes
      text = text//merge_null(r2_is_meaningful(errors%truth_spread(m)), number(errors%r2_per_mode(m)))
      if (m < num_modes) text = text//', '
    end do
    text = text//']'
  end function r2_list

  function list(values) result(text)
    real(r8), intent(in) :: values(:)
    character(len=:), allocatable :: text
    integer :: m

    text = '['
    do m = 1, size(values)
      text = text//number(values(m))
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

  function merge_null(present_, value) result(text)
    logical, intent(in) :: present_
    character(len=*), intent(in) :: value
    character(len=:), allocatable :: text

    if (present_) then
      text = value
    else
      text = 'null'
    end if
  end function merge_null

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
