#ifdef USE_LIBEMULATOR
!> E3SM's (and CAM's) side of the emulator of aerosol activation: its namelist group, its file, its line in the log.
!>
!> To be put beside ndrop.F90 and called as fortran_bridge/E3SM.md says. Without USE_LIBEMULATOR this file is empty.
!> One task reads the file and broadcasts it. What is wrong ends the run with a message, at the start.
module libemulator_activation
  use, intrinsic :: iso_fortran_env, only: int8, int32, int64
  use aerosol_activation_emulator, only: activation_emulator, use_activation_emulator
  use cam_abortutils, only: endrun
  use cam_logfile, only: iulog
  use ioFileMod, only: getfil
  use namelist_utils, only: find_group_name
  use shr_mpi_mod, only: shr_mpi_bcast
  use spmd_utils, only: masterproc, mpicom
  implicit none
  private
  public :: libemulator_activation_readnl, libemulator_activation_init

  character(len=16), save :: activation_scheme = 'arg'        !! 'arg' or 'emulator'
  character(len=256), save :: activation_emulator_file = ''   !! model.onnx

contains

  !> Read the group from the namelist file and broadcast it; without the group, the scheme is ARG.
  subroutine libemulator_activation_readnl(nlfile)
    character(len=*), intent(in) :: nlfile
    character(len=256) :: message
    integer :: unit, status
    namelist /libemulator_activation_nl/ activation_scheme, activation_emulator_file

    if (masterproc) then
      open(newunit=unit, file=trim(nlfile), status='old', action='read')
      call find_group_name(unit, 'libemulator_activation_nl', status)
      if (status == 0) then
        read(unit, libemulator_activation_nl, iostat=status, iomsg=message)
        if (status /= 0) call endrun('libemulator_activation_nl in '//trim(nlfile)//': '//trim(message))
      end if
      close(unit)
    end if
    call shr_mpi_bcast(activation_scheme, mpicom)
    call shr_mpi_bcast(activation_emulator_file, mpicom)
    if (activation_scheme /= 'arg' .and. activation_scheme /= 'emulator') &
      call endrun("activation_scheme is '"//trim(activation_scheme)//"'; it must be 'arg' or 'emulator'")
    if (activation_scheme == 'emulator' .and. activation_emulator_file == '') &
      call endrun("activation_scheme is 'emulator': activation_emulator_file must name a model (model.onnx)")
  end subroutine libemulator_activation_readnl

  !> Load the model of the namelist for activate_modal_emulator; before the first step, by all tasks.
  subroutine libemulator_activation_init()
    type(activation_emulator) :: emulator
    integer(int8), allocatable :: bytes(:)
    character(len=:), allocatable :: errmsg, line
    integer :: stat

    if (activation_scheme == 'arg') then
      if (masterproc) write(iulog, '(a)') ' activation: ARG (activation_scheme)'
      return
    end if
    call read_and_broadcast(trim(activation_emulator_file), bytes)
    call emulator%connect(bytes, stat, errmsg, scheme=trim(activation_scheme))
    if (stat /= 0) call endrun('activation_emulator_file '//trim(activation_emulator_file)//': '//errmsg)
    call use_activation_emulator(emulator)
    line = emulator%describe()
    if (masterproc) write(iulog, '(5a,i0,a,i0)') ' activation: ', line, '; ', &
      trim(activation_emulator_file), ' cksum ', cksum(bytes), ' ', size(bytes)
  end subroutine libemulator_activation_init

  subroutine read_and_broadcast(path, bytes)
    character(len=*), intent(in) :: path
    integer(int8), allocatable, intent(out) :: bytes(:)
    character(len=256) :: local, message
    integer(int32), allocatable :: words(:)  ! whose broadcast every shr_mpi_mod has
    integer :: unit, status, num_bytes

    num_bytes = 0
    if (masterproc) then
      call getfil(path, local, 0)
      open(newunit=unit, file=trim(local), access='stream', form='unformatted', status='old', action='read', &
        iostat=status, iomsg=message)
      if (status == 0) then
        inquire(unit=unit, size=num_bytes)
        allocate(bytes(num_bytes))
        read(unit, iostat=status, iomsg=message) bytes
        close(unit)
      end if
      if (status /= 0) call endrun('activation_emulator_file '//path//': '//trim(message))
    end if
    call shr_mpi_bcast(num_bytes, mpicom)
    allocate(words((num_bytes + 3) / 4), source=0_int32)
    if (masterproc) words = transfer([bytes, 0_int8, 0_int8, 0_int8], words, size(words))
    call shr_mpi_bcast(words, mpicom)
    if (.not. masterproc) allocate(bytes(num_bytes), source=transfer(words, [0_int8], num_bytes))
  end subroutine read_and_broadcast

  !> Checksum of the file as the command cksum prints it (POSIX): CRC-32, most significant bit first, over the bytes and
  !> their number.
  pure function cksum(bytes) result(sum)
    integer(int8), intent(in) :: bytes(:)
    integer(int64) :: sum
    integer(int64), parameter :: polynomial = int(z'04C11DB7', int64), low = int(z'FFFFFFFF', int64)
    integer(int64) :: table(0:255), entry, length
    integer :: i, bit

    do i = 0, 255
      entry = shiftl(int(i, int64), 24)
      do bit = 1, 8
        entry = merge(ieor(shiftl(entry, 1), polynomial), shiftl(entry, 1), btest(entry, 31))
        entry = iand(entry, low)
      end do
      table(i) = entry
    end do
    sum = 0
    do i = 1, size(bytes)
      sum = with_byte(sum, int(bytes(i), int64))
    end do
    length = size(bytes)
    do while (length > 0)
      sum = with_byte(sum, length)
      length = shiftr(length, 8)
    end do
    sum = ieor(sum, low)
  contains
    pure function with_byte(before, byte) result(after)
      integer(int64), intent(in) :: before, byte  !! of the byte, the lowest eight bits
      integer(int64) :: after

      after = iand(ieor(shiftl(before, 8), table(ieor(shiftr(before, 24), iand(byte, 255_int64)))), low)
    end function with_byte
  end function cksum

end module libemulator_activation
#endif
