!> Writes each scheme's answer per sample to netCDF, so that other programs can compare it with theirs.
module host_fractions
  use aerosol_activation_constants, only: r8, num_modes
  use host_config, only: config_t
  use host_state, only: chunk_t
  use netcdf
  implicit none
  private
  public :: write_fractions

contains

  !> Variables fn_arg and fn_emulator (nsamples, nmodes), nact_arg and nact_emulator (nsamples), for what ran; samples
  !! in the order in which they were read.
  subroutine write_fractions(path, config, num_samples, chunks, errmsg)
    character(len=*), intent(in) :: path
    type(config_t), intent(in) :: config
    integer, intent(in) :: num_samples
    type(chunk_t), intent(in) :: chunks(:)
    character(len=:), allocatable, intent(inout) :: errmsg
    real(r8), allocatable :: fn(:,:), nact(:)
    integer :: ncid, samples_dim, modes_dim, varid(4), status

    status = nf90_create(path, ior(nf90_clobber, nf90_netcdf4), ncid)
    if (status /= nf90_noerr) then
      errmsg = "fractions file '"//path//"' cannot be created: "//trim(nf90_strerror(status))
      return
    end if
    status = nf90_def_dim(ncid, 'nsamples', num_samples, samples_dim)
    status = nf90_def_dim(ncid, 'nmodes', num_modes, modes_dim)
    if (config%runs_arg()) call define('arg', varid(1:2))
    if (config%runs_emulator()) call define('emulator', varid(3:4))
    status = nf90_enddef(ncid)
    allocate(fn(num_modes, num_samples), nact(num_samples))
    if (config%runs_arg()) then
      call collect(.false.)
      call put(varid(1:2))
    end if
    if (config%runs_emulator()) then
      call collect(.true.)
      call put(varid(3:4))
    end if
    if (status == nf90_noerr) status = nf90_close(ncid)
    if (status /= nf90_noerr) errmsg = "fractions file '"//path//"' cannot be written: "//trim(nf90_strerror(status))

  contains

    subroutine define(scheme, ids)
      character(len=*), intent(in) :: scheme
      integer, intent(out) :: ids(2)

      ids = 0
      if (status == nf90_noerr) &
        status = nf90_def_var(ncid, 'fn_'//scheme, nf90_double, [modes_dim, samples_dim], ids(1))
      if (status == nf90_noerr) status = nf90_put_att(ncid, ids(1), 'units', '1')
      if (status == nf90_noerr) status = nf90_def_var(ncid, 'nact_'//scheme, nf90_double, [samples_dim], ids(2))
      if (status == nf90_noerr) status = nf90_put_att(ncid, ids(2), 'units', 'm-3')
    end subroutine define

    subroutine collect(emulator)
      logical, intent(in) :: emulator
      integer :: c, i, k, s

      do c = 1, size(chunks)
        do k = 1, size(chunks(c)%sample, 2)
          do i = 1, chunks(c)%ncol
            s = chunks(c)%sample(i, k)
            if (s == 0) cycle
            if (emulator) then
              fn(:, s) = chunks(c)%fn_emulator(i, k, :)
              nact(s) = chunks(c)%nact_emulator(i, k)
            else
              fn(:, s) = chunks(c)%fn_arg(i, k, :)
              nact(s) = chunks(c)%nact_arg(i, k)
            end if
          end do
        end do
      end do
    end subroutine collect

    subroutine put(ids)
      integer, intent(in) :: ids(2)

      if (status == nf90_noerr) status = nf90_put_var(ncid, ids(1), fn)
      if (status == nf90_noerr) status = nf90_put_var(ncid, ids(2), nact)
    end subroutine put
  end subroutine write_fractions
end module host_fractions
