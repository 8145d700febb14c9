!> History and restart files. Columns stand in the order of the globe, whatever ranks and chunks held them; reals are
!! doubles, so that files of two runs can be compared bit for bit.
!!
!! Rank 0 reads and writes. Every procedure is called by all ranks, and all have the same error afterwards.
module climate_history
  use aerosol_activation_constants, only: r8
  use climate_config, only: config_t
  use climate_decomposition, only: decomposition_t
  use climate_files, only: put_in_place
  use climate_parallel, only: parallel_t, agree, gather_columns, gather_levels, scatter_columns, scatter_levels
  use climate_state, only: chunk_t, field_t, level_fields, column_fields, num_level_states, num_column_states
  use netcdf
  use host_namelist, only: text
  implicit none
  private
  public :: history_t, open_history, write_history, close_history, write_restart, read_restart

  integer, parameter :: schema = 1  !! of history and restart files: raise it when their content changes meaning

  type :: history_t
    private
    integer :: ncid = -1, num_records = 0, step_id = -1
    integer :: level_ids(size(level_fields)) = -1, column_ids(num_column_states) = -1
  end type history_t

contains

  ! ---- history ----

  subroutine open_history(parallel, config, checksum, history, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    character(len=*), intent(in) :: checksum  !! of the model file; empty without one
    type(history_t), intent(out) :: history
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: step_dim, status

    if (config%history == ' ') return
    if (parallel%is_root) then
      status = nf90_create(trim(config%history), ior(nf90_clobber, nf90_netcdf4), history%ncid)
      if (status == nf90_noerr) status = nf90_def_dim(history%ncid, 'step', nf90_unlimited, step_dim)
      if (status == nf90_noerr) status = nf90_def_var(history%ncid, 'step', nf90_int, [step_dim], history%step_id)
      if (status == nf90_noerr) &
        status = nf90_put_att(history%ncid, history%step_id, 'long_name', 'steps since the initial state')
      call define_fields(history%ncid, config, checksum, level_fields, [step_dim], history%level_ids, &
        history%column_ids, status)
      if (status /= nf90_noerr) then
        errmsg = "history file '"//trim(config%history)//"' cannot be created: "//trim(nf90_strerror(status))
        call let_go(history%ncid)
      end if
    end if
    call agree(parallel, errmsg)
  end subroutine open_history

  subroutine write_history(parallel, config, d, chunks, step, history, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(in) :: chunks(:)
    integer, intent(in) :: step
    type(history_t), intent(inout) :: history
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: status

    if (config%history == ' ') return
    history%num_records = history%num_records + 1
    status = nf90_noerr
    if (parallel%is_root) status = nf90_put_var(history%ncid, history%step_id, [step], start=[history%num_records])
    call put_fields(parallel, config, d, chunks, history%ncid, history%level_ids, history%column_ids, &
      history%num_records, status)
    if (parallel%is_root .and. status == nf90_noerr) status = nf90_sync(history%ncid)
    if (status /= nf90_noerr) errmsg = "history file '"//trim(config%history)//"', step "//text(step)// &
      ', cannot be written: '//trim(nf90_strerror(status))
    call agree(parallel, errmsg)
  end subroutine write_history

  subroutine close_history(parallel, config, history, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(history_t), intent(inout) :: history
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: status

    if (config%history == ' ') return
    if (parallel%is_root .and. history%ncid /= -1) then
      status = nf90_close(history%ncid)
      if (status /= nf90_noerr .and. .not. allocated(errmsg)) &
        errmsg = "history file '"//trim(config%history)//"' cannot be closed: "//trim(nf90_strerror(status))
    end if
    call agree(parallel, errmsg)
  end subroutine close_history

  ! ---- restart ----

  !> Under a temporary name, then renamed: a run that is stopped here leaves the restart file of before.
  subroutine write_restart(parallel, config, d, chunks, step, checksum, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(in) :: chunks(:)
    integer, intent(in) :: step
    character(len=*), intent(in) :: checksum
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: temporary
    integer :: ncid, status, level_ids(num_level_states), column_ids(num_column_states)

    if (config%restart_out == ' ') return
    temporary = trim(config%restart_out)//'.part'
    status = nf90_noerr
    ncid = -1
    if (parallel%is_root) then
      status = nf90_create(temporary, ior(nf90_clobber, nf90_netcdf4), ncid)
      if (status == nf90_noerr) status = nf90_put_att(ncid, nf90_global, 'step', step)
      call define_fields(ncid, config, checksum, level_fields(:num_level_states), [integer ::], level_ids, &
        column_ids, status)
    end if
    call put_fields(parallel, config, d, chunks, ncid, level_ids, column_ids, 0, status)
    if (parallel%is_root) then
      if (status == nf90_noerr) then
        status = nf90_close(ncid)
      else
        call let_go(ncid)
      end if
      if (status /= nf90_noerr) then
        errmsg = "restart file '"//temporary//"' cannot be written: "//trim(nf90_strerror(status))
      else
        call put_in_place(temporary, trim(config%restart_out), errmsg)
      end if
    end if
    call agree(parallel, errmsg)
  end subroutine write_restart

  subroutine read_restart(parallel, config, d, chunks, step, checksum, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(inout) :: chunks(:)
    integer, intent(out) :: step  !! known to rank 0 only
    character(len=:), allocatable, intent(out) :: checksum  !! of the model that wrote the file; rank 0 only
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8), allocatable :: values(:,:)
    integer :: ncid, status, f

    step = 0
    checksum = ''
    if (parallel%is_root) then
      status = nf90_open(trim(config%restart_in), nf90_nowrite, ncid)
      if (status /= nf90_noerr) then
        errmsg = 'cannot be opened: '//trim(nf90_strerror(status))
      else
        call check_restart(ncid, config, step, checksum, errmsg)
        if (allocated(errmsg)) call let_go(ncid)
      end if
    end if
    call agree(parallel, errmsg)
    if (.not. allocated(errmsg)) then
      allocate(values(merge(config%num_columns, 0, parallel%is_root), config%num_levels))
      do f = 1, num_level_states
        if (parallel%is_root) call get_field(level_fields(f), [config%num_columns, config%num_levels])
        call scatter_levels(parallel, d, values, f, chunks)
      end do
      do f = 1, num_column_states
        if (parallel%is_root) call get_field(column_fields(f), [config%num_columns])
        call scatter_columns(parallel, d, values(:, 1), f, chunks)
      end do
      if (parallel%is_root) status = nf90_close(ncid)
      call agree(parallel, errmsg)
    end if
    if (allocated(errmsg)) errmsg = "restart file '"//trim(config%restart_in)//"' "//errmsg

  contains

    subroutine get_field(field, extents)
      type(field_t), intent(in) :: field
      integer, intent(in) :: extents(:)
      integer :: varid, found_dims

      if (allocated(errmsg)) return
      status = nf90_inq_varid(ncid, trim(field%name), varid)
      if (status == nf90_noerr) status = nf90_inquire_variable(ncid, varid, ndims=found_dims)
      if (status == nf90_noerr .and. found_dims /= size(extents)) status = nf90_edimsize
      if (status == nf90_noerr) then
        if (size(extents) == 2) then
          status = nf90_get_var(ncid, varid, values)
        else
          status = nf90_get_var(ncid, varid, values(:, 1))
        end if
      end if
      if (status /= nf90_noerr) then
        errmsg = 'has no readable '//trim(field%name)//': '//trim(nf90_strerror(status))
        values = 0._r8
      else if (any(.not. abs(values(:, :merge(config%num_levels, 1, size(extents) == 2))) <= huge(1._r8))) then
        errmsg = 'holds NaN or infinity in '//trim(field%name)
      end if
    end subroutine get_field
  end subroutine read_restart

  !> Is it a restart file of this schema, grid and time step?
  subroutine check_restart(ncid, config, step, checksum, errmsg)
    integer, intent(in) :: ncid
    type(config_t), intent(in) :: config
    integer, intent(out) :: step
    character(len=:), allocatable, intent(out) :: checksum
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8) :: time_step
    integer :: length, status

    checksum = ''
    if (nf90_get_att(ncid, nf90_global, 'step', step) /= nf90_noerr) then
      errmsg = 'is no restart file of this host: it has no attribute step'
      return
    end if
    call check_attribute('schema', schema)
    call check_dimension('column', config%num_columns, 'num_columns')
    call check_dimension('level', config%num_levels, 'num_levels')
    call check_attribute('seed', config%seed)
    if (allocated(errmsg)) return
    status = nf90_get_att(ncid, nf90_global, 'time_step', time_step)
    if (status /= nf90_noerr) then
      errmsg = 'has no attribute time_step'
    else if (time_step < config%time_step .or. time_step > config%time_step) then
      errmsg = 'was written with another time_step'
    end if
    if (nf90_inquire_attribute(ncid, nf90_global, 'model_sha256', len=length) == nf90_noerr) then
      deallocate(checksum)
      allocate(character(len=length) :: checksum)
      status = nf90_get_att(ncid, nf90_global, 'model_sha256', checksum)
    end if

  contains

    subroutine check_attribute(name, expected)
      character(len=*), intent(in) :: name
      integer, intent(in) :: expected
      integer :: found

      if (allocated(errmsg)) return
      if (nf90_get_att(ncid, nf90_global, name, found) /= nf90_noerr) then
        errmsg = 'has no attribute '//name
      else if (found /= expected) then
        errmsg = 'has '//name//' '//text(found)//', expected '//text(expected)
      end if
    end subroutine check_attribute

    subroutine check_dimension(name, expected, setting)
      character(len=*), intent(in) :: name, setting
      integer, intent(in) :: expected
      integer :: dimid, found

      if (allocated(errmsg)) return
      found = 0
      if (nf90_inq_dimid(ncid, name, dimid) == nf90_noerr) then
        if (nf90_inquire_dimension(ncid, dimid, len=found) /= nf90_noerr) found = 0
      end if
      if (found /= expected) &
        errmsg = 'has '//text(found)//' '//name//'s, the namelist says '//setting//' = '//text(expected)
    end subroutine check_dimension
  end subroutine check_restart

  ! ---- both ----

  !> Close a file with which something is wrong: a process that runs the host again may want to write it.
  subroutine let_go(ncid)
    integer, intent(inout) :: ncid
    integer :: ignored

    if (ncid == -1) return
    ignored = nf90_close(ncid)
    ncid = -1
  end subroutine let_go

  !> Dimensions, attributes and variables; `record` is the record dimension, or nothing. Does nothing after an error.
  subroutine define_fields(ncid, config, checksum, fields, record, level_ids, column_ids, status)
    integer, intent(in) :: ncid
    type(config_t), intent(in) :: config
    character(len=*), intent(in) :: checksum
    type(field_t), intent(in) :: fields(:)
    integer, intent(in) :: record(:)
    integer, intent(out) :: level_ids(:), column_ids(:)
    integer, intent(inout) :: status
    integer :: column_dim, level_dim, f

    level_ids = -1
    column_ids = -1
    if (status == nf90_noerr) status = nf90_def_dim(ncid, 'column', config%num_columns, column_dim)
    if (status == nf90_noerr) status = nf90_def_dim(ncid, 'level', config%num_levels, level_dim)
    if (status == nf90_noerr) status = nf90_put_att(ncid, nf90_global, 'schema', schema)
    if (status == nf90_noerr) status = nf90_put_att(ncid, nf90_global, 'seed', config%seed)
    if (status == nf90_noerr) status = nf90_put_att(ncid, nf90_global, 'time_step', config%time_step)
    if (status == nf90_noerr) status = nf90_put_att(ncid, nf90_global, 'scheme', trim(config%scheme))
    if (status == nf90_noerr .and. checksum /= '') status = nf90_put_att(ncid, nf90_global, 'model_sha256', checksum)
    do f = 1, size(fields)
      call define(fields(f), [column_dim, level_dim, record], level_ids(f))
    end do
    do f = 1, num_column_states
      call define(column_fields(f), [column_dim, record], column_ids(f))
    end do
    if (status == nf90_noerr) status = nf90_enddef(ncid)

  contains

    subroutine define(field, dims, id)
      type(field_t), intent(in) :: field
      integer, intent(in) :: dims(:)
      integer, intent(out) :: id

      id = -1
      if (status == nf90_noerr) status = nf90_def_var(ncid, trim(field%name), nf90_double, dims, id)
      if (status == nf90_noerr) status = nf90_put_att(ncid, id, 'units', trim(field%units))
      if (status == nf90_noerr) status = nf90_put_att(ncid, id, 'long_name', trim(field%long_name))
    end subroutine define
  end subroutine define_fields

  !> Gather and write all fields. All ranks take part in each gathering, also after rank 0 has failed to write.
  subroutine put_fields(parallel, config, d, chunks, ncid, level_ids, column_ids, record, status)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(decomposition_t), intent(in) :: d
    type(chunk_t), intent(in) :: chunks(:)
    integer, intent(in) :: ncid, level_ids(:), column_ids(:)
    integer, intent(in) :: record  !! 0: no record dimension
    integer, intent(inout) :: status
    real(r8), allocatable :: values(:,:)
    integer :: f

    allocate(values(merge(config%num_columns, 0, parallel%is_root), config%num_levels))
    do f = 1, size(level_ids)
      call gather_levels(parallel, d, chunks, f, values)
      if (.not. parallel%is_root .or. status /= nf90_noerr) cycle
      if (record > 0) then
        status = nf90_put_var(ncid, level_ids(f), values, start=[1, 1, record], count=[shape(values), 1])
      else
        status = nf90_put_var(ncid, level_ids(f), values)
      end if
    end do
    do f = 1, size(column_ids)
      call gather_columns(parallel, d, chunks, f, values(:, 1))
      if (.not. parallel%is_root .or. status /= nf90_noerr) cycle
      if (record > 0) then
        status = nf90_put_var(ncid, column_ids(f), values(:, 1), start=[1, record], count=[size(values, 1), 1])
      else
        status = nf90_put_var(ncid, column_ids(f), values(:, 1))
      end if
    end do
  end subroutine put_fields
end module climate_history
