!> What rank 0 tells people: what runs, and at the end counters and times summed over ranks.
module climate_report
  use, intrinsic :: iso_fortran_env, only: int64, output_unit
  use aerosol_activation_constants, only: r8
  use aerosol_activation_mapping, only: known_input_names
  use climate_activation, only: activation_t, tally_t
  use climate_config, only: config_t
  use climate_parallel, only: parallel_t, num_threads, total
  use host_namelist, only: text
  implicit none
  private
  public :: report_start, report_end

contains

  subroutine report_start(parallel, config, activation, checksum, num_chunks)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(activation_t), intent(in) :: activation
    character(len=*), intent(in) :: checksum
    integer, intent(in) :: num_chunks  !! of this rank
    integer(int64) :: chunks(1)

    chunks = total([int(num_chunks, int64)])
    if (.not. (parallel%is_root .and. config%verbose)) return
    write(output_unit, '(a, 5(i0, a))') 'climate_host: ', config%num_columns, ' columns x ', config%num_levels, &
      ' levels in ', chunks(1), ' chunks of up to ', config%pcols, ' columns; ranks ', parallel%size, &
      ', threads '//text(num_threads())
    if (checksum /= '') write(output_unit, '(4a)') 'climate_host: model ', trim(config%model), ', sha256 ', checksum
    if (config%scheme == 'external') then
      write(output_unit, '(a)') 'climate_host: activation by an external function'
    else
      write(output_unit, '(2a)') 'climate_host: ', activation%scheme%describe()
    end if
  end subroutine report_start

  !> Counters of activation, and thread times; also as JSON where the namelist names a file.
  subroutine report_end(parallel, config, tally, physics_ns, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(tally_t), intent(in) :: tally
    integer(int64), intent(in) :: physics_ns
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(int64) :: sums(10), outside(size(known_input_names), 3)

    associate (c => tally%counters, n => size(known_input_names))
      sums = total([tally%points, c%early_returns, c%prescribed, c%arg, c%emulated, c%fallbacks, c%failures, &
        tally%scheme_ns, tally%reference_ns, physics_ns])
      outside = reshape(total([c%low(:n), c%high(:n), c%nan(:n)]), shape(outside))
    end associate
    if (.not. parallel%is_root) return
    if (config%verbose) call print_end(config, sums, outside)
    if (config%timing /= ' ') call write_json(trim(config%timing), sums, outside, errmsg)
  end subroutine report_end

  subroutine print_end(config, sums, outside)
    type(config_t), intent(in) :: config
    integer(int64), intent(in) :: sums(:), outside(:,:)
    integer :: i

    write(output_unit, '(7(a, i0), a)') 'climate_host: activated points ', sums(1), ': early returns ', sums(2), &
      ', prescribed ', sums(3), ', arg ', sums(4), ', emulated ', sums(5), ', fallbacks ', sums(6), &
      ', failures ', sums(7)
    do i = 1, size(outside, 1)
      if (any(outside(i, :) > 0)) write(output_unit, '(3a, 3(i0, a))') 'climate_host: outside the training range: ', &
        trim(known_input_names(i)), ' below ', outside(i, 1), ', above ', outside(i, 2), ', NaN ', outside(i, 3)
    end do
    write(output_unit, '(a, f0.1, a, f0.2, a)') 'climate_host: activation ', per_point(sums(8), sums(1)), &
      ' ns a point, ', share(sums(8), sums(10) - sums(9)), ' % of the physics (thread time)'
    if (config%reference /= 'none') write(output_unit, '(3a, f0.1, a)') 'climate_host: reference ', &
      trim(config%reference), ' on the same points ', per_point(sums(9), sums(1)), ' ns a point'
  end subroutine print_end

  subroutine write_json(path, sums, outside, errmsg)
    character(len=*), intent(in) :: path
    integer(int64), intent(in) :: sums(:), outside(:,:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: i, unit, iostat
    character(len=512) :: iomsg

    open(newunit=unit, file=path, status='replace', action='write', iostat=iostat, iomsg=iomsg)
    if (iostat == 0) write(unit, '(a, 10(a, i0), a)', iostat=iostat, iomsg=iomsg) '{"schema": 1', &
      ', "points": ', sums(1), ', "early_returns": ', sums(2), ', "prescribed": ', sums(3), ', "arg": ', sums(4), &
      ', "emulated": ', sums(5), ', "fallbacks": ', sums(6), ', "failures": ', sums(7), &
      ', "activation_ns": ', sums(8), ', "reference_ns": ', sums(9), ', "physics_ns": ', sums(10), ', "outside": {'
    do i = 1, size(outside, 1)
      if (iostat == 0) write(unit, '(3a, 3(a, i0), a)', iostat=iostat, iomsg=iomsg) '"', trim(known_input_names(i)), &
        '": {', '"low": ', outside(i, 1), ', "high": ', outside(i, 2), ', "nan": ', outside(i, 3), &
        trim(merge('}} ', '}, ', i == size(outside, 1)))
    end do
    if (iostat == 0) write(unit, '(a)', iostat=iostat, iomsg=iomsg) '}'
    if (iostat == 0) close(unit, iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) errmsg = "timing file '"//path//"' cannot be written: "//trim(iomsg)
  end subroutine write_json

  pure real(r8) function per_point(ns, points)
    integer(int64), intent(in) :: ns, points

    per_point = real(ns, r8)/real(max(points, 1_int64), r8)
  end function per_point

  !> Per cent.
  pure real(r8) function share(part, whole)
    integer(int64), intent(in) :: part, whole

    share = 100._r8*real(part, r8)/real(max(whole, 1_int64), r8)
  end function share
end module climate_report
