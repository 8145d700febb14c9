!> Reads generated states and the parcel model's answer from a samples file, the rows that are asked for.
!!
!! The truth is the parcel model's: a particle activates whose critical supersaturation (kappa-Koehler theory) lies
!! below the parcel's maximum. fn is what the file holds. fm is not in it, and follows: within a mode, which has one
!! hygroscopicity, what activates is what is larger than some radius, and aerosol_activation_mass gives the fraction of
!! mass beyond it. From fn in single precision, within 1e-7 of what the file's S_max gives (tests/host/test_compare.py).
module host_samples
  use, intrinsic :: ieee_arithmetic, only: ieee_is_finite
  use aerosol_activation_constants, only: r8, num_modes
  use aerosol_activation_mass, only: mass_from_number
  use host_namelist, only: text
  use netcdf
  implicit none
  private
  public :: samples_t, read_samples

  !> States in the units of the samples file; modes are the first axis, as netCDF's last.
  type :: samples_t
    integer :: num_samples = 0
    real(r8), allocatable :: tair(:), pressure(:), rh(:), wbar(:)         !! K, hPa, 1, cm s-1 (num_samples)
    real(r8), allocatable :: num_aer(:,:), r_aer(:,:), kappa(:,:)         !! cm-3, um, 1 (num_modes, num_samples)
    real(r8), allocatable :: fn(:,:), fm(:,:)                             !! truth, 1
  end type samples_t

  integer, parameter :: block_samples = 65536  ! samples held at a time while picking rows: a file may exceed memory

contains

  !> Rows `rows_path` names (all, if it is blank), the first `max_samples` of them (all, if 0).
  subroutine read_samples(path, rows_path, max_samples, samples, errmsg)
    character(len=*), intent(in) :: path, rows_path
    integer, intent(in) :: max_samples
    type(samples_t), intent(out) :: samples
    character(len=:), allocatable, intent(out) :: errmsg
    integer, allocatable :: rows(:)
    integer :: ncid, num_in_file, i, status

    status = nf90_open(path, nf90_nowrite, ncid)
    if (status /= nf90_noerr) then
      errmsg = "samples file '"//path//"' cannot be opened: "//trim(nf90_strerror(status))
      return
    end if
    call check_dimensions(ncid, num_in_file, errmsg)
    if (.not. allocated(errmsg)) then
      if (rows_path == ' ') then
        rows = [(i, i = 0, num_in_file - 1)]
      else
        call read_rows(rows_path, rows, errmsg)
      end if
    end if
    if (.not. allocated(errmsg)) then
      if (max_samples > 0 .and. max_samples < size(rows)) rows = rows(:max_samples)
      if (size(rows) == 0) then
        errmsg = 'no rows to read'
      else if (minval(rows) < 0 .or. maxval(rows) >= num_in_file) then
        errmsg = 'sample_rows reach from '//text(minval(rows))//' to '//text(maxval(rows))// &
          ', expected 0 to '//text(num_in_file - 1)//' (rows are 0-based)'
      end if
    end if
    if (.not. allocated(errmsg)) then
      samples%num_samples = size(rows)
      call read_per_sample(ncid, 'tair', 'K', rows, num_in_file, samples%tair, errmsg)
      call read_per_sample(ncid, 'pressure', 'hPa', rows, num_in_file, samples%pressure, errmsg)
      call read_per_sample(ncid, 'rh', '1', rows, num_in_file, samples%rh, errmsg)
      call read_per_sample(ncid, 'wbar', 'cm s-1', rows, num_in_file, samples%wbar, errmsg)
      call read_per_mode(ncid, 'num_aer', 'cm-3', rows, num_in_file, samples%num_aer, errmsg)
      call read_per_mode(ncid, 'r_aer', 'um', rows, num_in_file, samples%r_aer, errmsg)
      call read_per_mode(ncid, 'kappa', '1', rows, num_in_file, samples%kappa, errmsg)
      call read_per_mode(ncid, 'fn', '1', rows, num_in_file, samples%fn, errmsg)
    end if
    if (.not. allocated(errmsg)) then
      allocate(samples%fm(num_modes, size(rows)))
      do i = 1, size(rows)
        call mass_from_number(1, samples%fn(:, i), samples%fm(:, i))
      end do
    end if
    status = nf90_close(ncid)
    if (allocated(errmsg)) errmsg = "samples file '"//path//"': "//errmsg
  end subroutine read_samples

  subroutine check_dimensions(ncid, num_in_file, errmsg)
    integer, intent(in) :: ncid
    integer, intent(out) :: num_in_file
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: dimid, modes

    num_in_file = 0
    modes = 0
    if (nf90_inq_dimid(ncid, 'nsamples', dimid) == nf90_noerr) then
      if (nf90_inquire_dimension(ncid, dimid, len=num_in_file) /= nf90_noerr) num_in_file = 0
    end if
    if (nf90_inq_dimid(ncid, 'nmodes', dimid) == nf90_noerr) then
      if (nf90_inquire_dimension(ncid, dimid, len=modes) /= nf90_noerr) modes = 0
    end if
    if (num_in_file < 1) then
      errmsg = 'found no dimension nsamples, or it is empty; expected the samples of the activation case study'
    else if (modes /= num_modes) then
      errmsg = 'dimension nmodes is '//text(modes)//', expected '//text(num_modes)
    end if
  end subroutine check_dimensions

  !> 0-based rows, from integer variable `sample_rows` of a netCDF file or, failing that, a text file, one a line.
  subroutine read_rows(path, rows, errmsg)
    character(len=*), intent(in) :: path
    integer, allocatable, intent(out) :: rows(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: ncid, varid, dimids(1), ndims, n, i, unit, iostat
    character(len=256) :: iomsg

    if (nf90_open(path, nf90_nowrite, ncid) == nf90_noerr) then
      ndims = 0
      iostat = nf90_inq_varid(ncid, 'sample_rows', varid)
      if (iostat == nf90_noerr) iostat = nf90_inquire_variable(ncid, varid, ndims=ndims)
      if (iostat == nf90_noerr .and. ndims == 1) then
        iostat = nf90_inquire_variable(ncid, varid, dimids=dimids)
        if (iostat == nf90_noerr) iostat = nf90_inquire_dimension(ncid, dimids(1), len=n)
        allocate(rows(n))
        if (iostat == nf90_noerr) iostat = nf90_get_var(ncid, varid, rows)
      end if
      if (iostat /= nf90_noerr .or. ndims /= 1) &
        errmsg = "rows file '"//path//"' holds no readable integer variable sample_rows of one dimension"
      iostat = nf90_close(ncid)
      return
    end if

    open(newunit=unit, file=path, status='old', action='read', iostat=iostat, iomsg=iomsg)
    if (iostat /= 0) then
      errmsg = "rows file '"//path//"' cannot be opened: "//trim(iomsg)
      return
    end if
    n = 0
    do
      read(unit, *, iostat=iostat, iomsg=iomsg) i
      if (iostat /= 0) exit
      n = n + 1
    end do
    if (iostat > 0) then
      errmsg = "rows file '"//path//"', entry "//text(n + 1)//': '//trim(iomsg)//'; expected one integer a line'
      close(unit)
      return
    end if
    allocate(rows(n))
    rewind(unit)
    do i = 1, n
      read(unit, *) rows(i)
    end do
    close(unit)
  end subroutine read_rows

  subroutine read_per_sample(ncid, name, units, rows, num_in_file, values, errmsg)
    integer, intent(in) :: ncid, rows(:), num_in_file
    character(len=*), intent(in) :: name, units
    real(r8), allocatable, intent(out) :: values(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8), allocatable :: block(:,:), picked(:,:)

    if (allocated(errmsg)) return
    call read_block_wise(ncid, name, units, 1, rows, num_in_file, block, picked, errmsg)
    if (.not. allocated(errmsg)) values = picked(1, :)
  end subroutine read_per_sample

  subroutine read_per_mode(ncid, name, units, rows, num_in_file, values, errmsg)
    integer, intent(in) :: ncid, rows(:), num_in_file
    character(len=*), intent(in) :: name, units
    real(r8), allocatable, intent(out) :: values(:,:)
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8), allocatable :: block(:,:)

    if (allocated(errmsg)) return
    call read_block_wise(ncid, name, units, num_modes, rows, num_in_file, block, values, errmsg)
  end subroutine read_per_mode

  !> Variable of `width` values per sample: checked, then read block by block, and the wanted rows kept in their order.
  subroutine read_block_wise(ncid, name, units, width, rows, num_in_file, block, picked, errmsg)
    integer, intent(in) :: ncid, width, rows(:), num_in_file
    character(len=*), intent(in) :: name, units
    real(r8), allocatable, intent(out) :: block(:,:), picked(:,:)
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: varid, ndims, dimids(nf90_max_var_dims), status, start, count, i
    integer :: samples_dim, modes_dim
    logical :: right_dims
    character(len=64) :: found_units

    status = nf90_inq_varid(ncid, name, varid)
    if (status /= nf90_noerr) then
      errmsg = 'variable '//name//' is missing'
      return
    end if
    found_units = ' '
    status = nf90_inquire_attribute(ncid, varid, 'units', len=i)
    if (status == nf90_noerr .and. i <= len(found_units)) status = nf90_get_att(ncid, varid, 'units', found_units)
    if (status /= nf90_noerr .or. found_units /= units) then
      errmsg = 'variable '//name//" has units '"//trim(found_units)//"', expected '"//units//"'"
      return
    end if
    status = nf90_inquire_variable(ncid, varid, ndims=ndims, dimids=dimids)
    status = nf90_inq_dimid(ncid, 'nsamples', samples_dim)
    status = nf90_inq_dimid(ncid, 'nmodes', modes_dim)
    if (width == 1) then
      right_dims = ndims == 1 .and. dimids(1) == samples_dim
    else
      right_dims = ndims == 2 .and. dimids(1) == modes_dim .and. dimids(2) == samples_dim
    end if
    if (.not. right_dims) then
      errmsg = 'variable '//name//' has the wrong dimensions, expected (nsamples'//merge(')         ', ', nmodes) ', &
        width == 1)
      errmsg = trim(errmsg)
      return
    end if

    allocate(block(width, min(block_samples, num_in_file)), picked(width, size(rows)))
    do start = 0, num_in_file - 1, block_samples
      count = min(block_samples, num_in_file - start)
      if (.not. any(rows >= start .and. rows < start + count)) cycle
      if (width == 1) then
        status = nf90_get_var(ncid, varid, block(1, :count), start=[start + 1], count=[count])
      else
        status = nf90_get_var(ncid, varid, block(:, :count), start=[1, start + 1], count=[width, count])
      end if
      if (status /= nf90_noerr) then
        errmsg = 'variable '//name//' cannot be read: '//trim(nf90_strerror(status))
        return
      end if
      do i = 1, size(rows)
        if (rows(i) >= start .and. rows(i) < start + count) picked(:, i) = block(:, rows(i) - start + 1)
      end do
    end do
    do i = 1, size(rows)
      if (all(is_number(picked(:, i)))) cycle
      errmsg = 'variable '//name//' has no number at row '//text(rows(i))//': NaN or a fill value'
      return
    end do
  end subroutine read_block_wise

  !> Neither NaN nor infinite nor netCDF's fill value. Two steps: comparing a NaN would trap.
  elemental logical function is_number(value)
    real(r8), intent(in) :: value

    is_number = ieee_is_finite(value)
    if (is_number) is_number = abs(value) < nf90_fill_float
  end function is_number
end module host_samples
