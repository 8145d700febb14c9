!> The whole run: namelist, model, columns, steps, files, counters.
module climate_model
  use, intrinsic :: iso_c_binding, only: c_ptr
  use, intrinsic :: iso_fortran_env, only: error_unit, int8, int64
  use aerosol_activation_constants, only: r8
  use climate_activation, only: activation_t, tally_t, connect
  use activation_timing, only: clock_ns
  use climate_config, only: config_t, read_config
  use climate_decomposition, only: decomposition_t, decompose
  use climate_environment, only: environment_t, make_environment, describe_columns, set_initial_state
  use climate_external, only: external_activation
  use climate_files, only: read_bytes, sha256
  use climate_history, only: history_t, open_history, write_history, close_history, write_restart, read_restart
  use climate_parallel, only: parallel_t, start_parallel, agree, broadcast_bytes, most_threads
  use climate_physics, only: step_chunk
  use climate_report, only: report_start, report_end
  use climate_state, only: chunk_t, allocate_chunk, padding_is_intact
  use host_namelist, only: text
  implicit none
  private
  public :: run_climate

contains

  !> All ranks call it. On failure `errmsg` is allocated, the same on all ranks, and rank 0 has printed it.
  subroutine run_climate(namelist_path, external, context, errmsg)
    character(len=*), intent(in) :: namelist_path
    procedure(external_activation), pointer, intent(in) :: external  !! for scheme 'external'; null: none
    type(c_ptr), intent(in) :: context                               !! handed on to it
    character(len=:), allocatable, intent(out) :: errmsg
    type(parallel_t) :: parallel

    call start_parallel(parallel, errmsg)
    if (.not. allocated(errmsg)) call run(parallel, namelist_path, external, context, errmsg)
    if (allocated(errmsg) .and. parallel%is_root) write(error_unit, '(2a)') 'climate_host: ', errmsg
  end subroutine run_climate

  subroutine run(parallel, namelist_path, external, context, errmsg)
    type(parallel_t), intent(in) :: parallel
    character(len=*), intent(in) :: namelist_path
    procedure(external_activation), pointer, intent(in) :: external
    type(c_ptr), intent(in) :: context
    character(len=:), allocatable, intent(inout) :: errmsg
    type(config_t) :: config
    type(activation_t) :: activation
    type(environment_t) :: e
    type(decomposition_t) :: d
    type(chunk_t), allocatable :: chunks(:)
    type(tally_t) :: tally
    type(history_t) :: history
    character(len=:), allocatable :: checksum
    integer(int64) :: physics_ns
    integer :: first_step, step

    call share_config(parallel, namelist_path, config, errmsg)
    if (allocated(errmsg)) return
    call share_model(parallel, config, external, context, activation, checksum, errmsg)
    if (allocated(errmsg)) return

    d = decompose(config%num_columns, parallel%size, most_threads(), config%pcols, parallel%rank)
    e = make_environment(config%num_levels, config%seed)
    call make_columns(parallel, config, e, d, chunks)
    call report_start(parallel, config, activation, checksum, size(chunks))
    call set_state(parallel, config, e, d, checksum, chunks, first_step, errmsg)
    if (allocated(errmsg)) return
    call open_history(parallel, config, checksum, history, errmsg)
    if (allocated(errmsg)) return

    physics_ns = 0
    do step = first_step + 1, first_step + config%num_steps
      call step_chunks(e, activation, config%time_step, step, chunks, tally, physics_ns, errmsg)
      call agree(parallel, errmsg)
      if (allocated(errmsg)) errmsg = 'step '//text(step)//', '//errmsg
      if (allocated(errmsg)) exit
      if (mod(step, config%history_every) == 0) &
        call write_history(parallel, config, d, chunks, step, history, errmsg)
      if (allocated(errmsg)) exit
      if (step == first_step + config%num_steps .or. &
          mod(step - first_step, max(1, config%restart_every)) == 0 .and. config%restart_every > 0) &
        call write_restart(parallel, config, d, chunks, step, checksum, errmsg)
      if (allocated(errmsg)) exit
    end do
    call close_history(parallel, config, history, errmsg)
    if (allocated(errmsg)) return
    if (.not. all_padding_is_intact(chunks)) errmsg = 'something was written beyond ncol in a chunk'
    call agree(parallel, errmsg)
    if (.not. allocated(errmsg)) call report_end(parallel, config, tally, physics_ns, errmsg)
    call agree(parallel, errmsg)
  end subroutine run

  !> Rank 0 reads the namelist, all get it.
  subroutine share_config(parallel, path, config, errmsg)
    type(parallel_t), intent(in) :: parallel
    character(len=*), intent(in) :: path
    type(config_t), intent(out) :: config
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(int8), allocatable :: bytes(:)

    if (parallel%is_root) call read_config(path, config, errmsg)
    call agree(parallel, errmsg)
    if (allocated(errmsg)) return
    if (parallel%is_root) bytes = transfer(config, bytes)
    call broadcast_bytes(parallel, bytes)
    config = transfer(bytes, config)
  end subroutine share_config

  !> Rank 0 reads the model file, all load it from the bytes.
  subroutine share_model(parallel, config, external, context, activation, checksum, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    procedure(external_activation), pointer, intent(in) :: external
    type(c_ptr), intent(in) :: context
    type(activation_t), intent(inout) :: activation
    character(len=:), allocatable, intent(out) :: checksum
    character(len=:), allocatable, intent(inout) :: errmsg
    integer(int8), allocatable :: bytes(:)

    checksum = ''
    if (config%needs_model()) then
      if (parallel%is_root) call read_bytes(trim(config%model), bytes, errmsg)
      call agree(parallel, errmsg)
      if (allocated(errmsg)) return
      call broadcast_bytes(parallel, bytes)
      checksum = sha256(bytes)
    else
      allocate(bytes(0))
    end if
    call connect(config, bytes, external, context, activation, errmsg)
    call agree(parallel, errmsg)
  end subroutine share_model

  subroutine make_columns(parallel, config, e, d, chunks)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(environment_t), intent(in) :: e
    type(decomposition_t), intent(in) :: d
    type(chunk_t), allocatable, intent(out) :: chunks(:)
    integer :: c, first

    allocate(chunks(size(d%chunk_columns)))
    first = d%first(parallel%rank + 1)
    do c = 1, size(chunks)
      call allocate_chunk(chunks(c), d%order(first:first + d%chunk_columns(c) - 1), config%pcols, config%num_levels)
      call describe_columns(e, chunks(c))
      first = first + d%chunk_columns(c)
    end do
  end subroutine make_columns

  !> The initial state, or that of the restart file.
  subroutine set_state(parallel, config, e, d, checksum, chunks, first_step, errmsg)
    type(parallel_t), intent(in) :: parallel
    type(config_t), intent(in) :: config
    type(environment_t), intent(in) :: e
    type(decomposition_t), intent(in) :: d
    character(len=*), intent(in) :: checksum
    type(chunk_t), intent(inout) :: chunks(:)
    integer, intent(out) :: first_step
    character(len=:), allocatable, intent(inout) :: errmsg
    character(len=:), allocatable :: checksum_before
    integer(int8), allocatable :: bytes(:)
    integer :: c

    first_step = 0
    do c = 1, size(chunks)
      call set_initial_state(e, config%pertlim, chunks(c))
    end do
    if (config%restart_in == ' ') return
    call read_restart(parallel, config, d, chunks, first_step, checksum_before, errmsg)
    if (allocated(errmsg)) return
    if (parallel%is_root .and. checksum_before /= checksum) write(error_unit, '(5a)') &
      "climate_host: note: restart file '", trim(config%restart_in), "' was written with ", &
      described(checksum_before), ', this run has '//described(checksum)
    if (parallel%is_root) bytes = transfer(first_step, bytes)
    call broadcast_bytes(parallel, bytes)
    first_step = transfer(bytes, first_step)

  contains

    function described(sum)
      character(len=*), intent(in) :: sum
      character(len=:), allocatable :: described

      described = 'no model'
      if (sum /= '') described = 'model sha256 '//sum
    end function described
  end subroutine set_state

  !> A step of all chunks of this rank, threads over chunks as E3SM has them. The first error of any thread is kept.
  subroutine step_chunks(e, activation, time_step, step, chunks, tally, physics_ns, errmsg)
    type(environment_t), intent(in) :: e
    type(activation_t), intent(in) :: activation
    real(r8), intent(in) :: time_step
    integer, intent(in) :: step
    type(chunk_t), intent(inout) :: chunks(:)
    type(tally_t), intent(inout) :: tally
    integer(int64), intent(inout) :: physics_ns  !! thread time: adds up over chunks
    character(len=:), allocatable, intent(inout) :: errmsg
    integer :: c

    !$omp parallel do schedule(static, 1)
    do c = 1, size(chunks)
      call step_one_chunk(e, activation, time_step, step, chunks(c), tally, physics_ns, errmsg)
    end do
    !$omp end parallel do
  end subroutine step_chunks

  subroutine step_one_chunk(e, activation, time_step, step, chunk, tally, physics_ns, errmsg)
    type(environment_t), intent(in) :: e
    type(activation_t), intent(in) :: activation
    real(r8), intent(in) :: time_step
    integer, intent(in) :: step
    type(chunk_t), intent(inout) :: chunk
    type(tally_t), intent(inout) :: tally         !! shared by threads
    integer(int64), intent(inout) :: physics_ns   !! shared by threads
    character(len=:), allocatable, intent(inout) :: errmsg  !! shared by threads
    type(tally_t) :: mine
    character(len=:), allocatable :: message
    integer(int64) :: start

    start = clock_ns()
    call step_chunk(e, activation, time_step, step, chunk, mine, message)
    start = clock_ns() - start
    !$omp critical (add_up)
    call tally%add(mine)
    physics_ns = physics_ns + start
    if (allocated(message) .and. .not. allocated(errmsg)) errmsg = message
    !$omp end critical (add_up)
  end subroutine step_one_chunk

  logical function all_padding_is_intact(chunks)
    type(chunk_t), intent(in) :: chunks(:)
    integer :: c

    all_padding_is_intact = .true.
    do c = 1, size(chunks)
      all_padding_is_intact = all_padding_is_intact .and. padding_is_intact(chunks(c))
    end do
  end function all_padding_is_intact
end module climate_model
